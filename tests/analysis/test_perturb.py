"""``analysis=perturb`` as a user runs it: command and API, masked and autoregressive, refusals, resume."""

import multiprocessing
from itertools import combinations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scfm.analysis.perturbation.design import name_set
from scfm.analysis.perturbation.reader import make_reader
from scfm.analysis.perturbation.shifts import Runner
from scfm.datasets.demo_cells import demo_file
from scfm.inference.batches import trained_tokenizer
from scfm.inference.model import load
from scfm.vocab import Vocab
from support import SMALL, command

FEW = {"where": "cell_type in ['B', 'Mono']", "state": "cell_type", "start": "Mono", "goal": "B", "donor": "lane"}
QUICK = {"permutations": 20, "random_weights": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """60 demo cells of two types and four lanes; a masked and an autoregressive model of them."""
    folder = tmp_path_factory.mktemp("perturb")
    cells = anndata.read_h5ad(demo_file())
    kinds = cells.obs["cell_type"].astype(str)
    cells.obs["cell_type"] = kinds.where(~kinds.str.startswith("B"), "B").where(~kinds.str.contains("Mono"), "Mono")
    lanes = cells.obs["lane"].value_counts().index[:4]
    own = cells[cells.obs["lane"].isin(lanes) & cells.obs["cell_type"].isin(["B", "Mono"])]
    few = own.obs.groupby(["cell_type", "lane"], observed=True).head(8).index
    own[few].copy().write_h5ad(folder / "cells.h5ad")
    command("prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", "obs=[cell_type]", "workers=1")
    for objective in ("mlm", "ar"):
        command("train", f"store={folder / 'store'}", f"output={folder / objective}", f"objective={objective}", *SMALL,
                "trainer.max_steps=3", "data.max_length=64")  # fmt: skip
    return folder


def model_of(made, objective="mlm"):
    return load(made / f"{objective}/checkpoints/last.ckpt")


@pytest.mark.parametrize("objective", ["mlm", "ar"])
def test_command_and_api_say_the_same(made, tmp_path, objective):
    options = {**FEW, "permutations": 20, "max_cells": 20, "min_cells": 2, "where": None}
    words = [f"analysis.{key}={'null' if value is None else value}" for key, value in options.items()]
    sentences = command(
        "analyse", "analysis=perturb", f"init_from={made / objective / 'checkpoints/last.ckpt'}",
        f"input={made / 'cells.h5ad'}", f"output={tmp_path / 'out'}", "analysis.table=upstream", *words,
    )  # fmt: skip
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"cells.parquet", "genes.csv", "genes_upstream.csv", "baselines.csv", "report.html", "volcano.png"}
    cells = anndata.read_h5ad(made / "cells.h5ad")
    result = model_of(made, objective).analyse("perturb", cells, **options)
    assert list(result.summary) == sentences
    written = pd.read_csv(tmp_path / "out/genes.csv")
    np.testing.assert_allclose(written["shift"], result.tables["genes"]["shift"], atol=1e-6)
    assert set(written) >= {"gene", "symbol", "n_cells", "n_donors", "mean_rank", "shift", "shift_se", "null_mean", "z",
                            "p", "fdr", "p_label", "shift_random", "logfc", "logfc_fdr"}  # fmt: skip
    assert set(result.tables["baselines"]["score"]) >= {"shift_random", "logfc", "wilcoxon", "mean_rank", "detections"}
    upstream = pd.read_csv(tmp_path / "out/genes_upstream.csv")
    assert list(upstream)[:6] == ["Gene", "Gene_name", "Ensembl_ID", "N_Detections", "Sig", "Shift_to_goal_end"]


def test_packed_is_one_by_one_and_shared_originals_change_nothing(made):
    model = model_of(made)
    cells = anndata.read_h5ad(made / "cells.h5ad")
    options = {**FEW, **QUICK, "max_cells": 4, "min_cells": 2}
    packed = model.analyse("perturb", cells, **options).tables["cells"]
    single = model.analyse("perturb", cells, **options, tokens_per_batch=1).tables["cells"]
    for name in ("shift", "cosine", "projection"):
        np.testing.assert_allclose(packed[name], single[name], atol=1e-5)


def test_bfloat16_is_near_float32(made):
    model, options = model_of(made), {**FEW, **QUICK, "max_cells": 6, "min_cells": 2}
    one, two = (model.analyse("perturb", made / "cells.h5ad", **options, bf16=b).tables["cells"] for b in (False, True))
    assert np.abs(one["shift"] - two["shift"]).max() > 0
    np.testing.assert_allclose(one["cosine"], two["cosine"], atol=1e-2)


def test_the_order_of_cells_does_not_matter(made):
    model, cells = model_of(made), anndata.read_h5ad(made / "cells.h5ad")
    other = cells[np.random.default_rng(0).permutation(len(cells))].copy()
    one, two = (model.analyse("perturb", x, **FEW, **QUICK).tables["cells"] for x in (cells, other))
    both = one.merge(two, on=["cell", "gene"])
    assert len(both) == len(one) == len(two)
    np.testing.assert_allclose(both["shift_x"], both["shift_y"], atol=1e-6)


def test_an_interrupted_run_goes_on_after_its_last_part(made, tmp_path, monkeypatch):
    model, calls = model_of(made), []
    whole = model.analyse("perturb", made / "cells.h5ad", **FEW, **QUICK, part_size=10)
    run = Runner.run

    def stops(self, cells, advance):
        calls.append(len(cells))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, cells, advance)

    monkeypatch.setattr(Runner, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        model.analyse("perturb", made / "cells.h5ad", **FEW, **QUICK, part_size=10, output=tmp_path / "out")
    first = len(calls)
    resumed = model.analyse("perturb", made / "cells.h5ad", **FEW, **QUICK, part_size=10, output=tmp_path / "out")
    assert len(calls) - first == -(-len(whole.tables["cells"]["row"].unique()) // 10) - 2
    for name in ("cells", "genes"):
        pd.testing.assert_frame_equal(resumed.tables[name], whole.tables[name])


def test_an_identity_takes_no_pass_and_is_not_counted(made):
    model = model_of(made)
    tokens = []
    reader_embed = type(make_reader(model, trained_tokenizer(model.checkpoint), 99)).embed

    def counted(self, lists):
        tokens.append(len(lists))
        return reader_embed(self, lists)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scfm.analysis.perturbation.reader.Reader.embed", counted)
        found = model.analyse("perturb", made / "cells.h5ad", **QUICK, op="overexpress", min_cells=20, max_cells=25)
    cells = found.tables["cells"]
    assert not ((cells["rank"] == 0) & (cells["dropped"] == 0)).any(), "the top gene is at the top already"
    assert sum(tokens) - found.coverage["cells_read"] == 2 * len(cells)


class TestLists:
    """The published code fails on lists: a name that is missing, a long list, all genes in one cell."""

    def genes(self, model, n):
        vocab: Vocab = model.vocab
        return [vocab.tokens[gene] for gene in vocab.gene_ids[:n]]

    @pytest.mark.parametrize("op", ["delete", "overexpress"])
    def test_a_missing_gene_is_left_out_and_named(self, made, op):
        model = model_of(made)
        found = model.analyse("perturb", made / "cells.h5ad", **QUICK, op=op, genes=["CD74", "NO_GENE"], controls=5)
        genes = found.tables["genes"]
        assert genes.loc[~genes["control"], "symbol"].tolist() == ["CD74"]
        assert any("NO_GENE not in the vocabulary" in note for note in found.notes)

    def test_sixty_genes_make_no_file_name(self, made, tmp_path):
        model = model_of(made)
        common = ["CD74", *self.genes(model, 60)]
        found = model.analyse("perturb", made / "cells.h5ad", **QUICK, genes=common, jointly=True, controls=0,
                              output=tmp_path / "out")  # fmt: skip
        assert (tmp_path / "out/genes.csv").is_file()
        assert any("cells have all" in note for note in found.notes)
        assert len(found.tables["genes"]) == 1

    def test_pairs_with_an_anchor_have_the_single_shifts_beside(self, made):
        genes = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK).tables["genes"]
        names = genes.sort_values("n_cells", ascending=False)["gene"].tolist()
        found = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK, genes=names[1:3], anchor=names[0],
                                       controls=0)  # fmt: skip
        pairs = found.tables["pairs"]
        sums = pairs["pair_shift"] - pairs["anchor_shift"] - pairs["gene_shift"]
        np.testing.assert_allclose(pairs["interaction"], sums)
        assert len(pairs) == 2


def test_a_state_without_a_goal_is_all_that_is_changed(made):
    """The published code throws its older form of one state away."""
    options = {"state": "cell_type", "start": "Mono", "genes": ["CD74"], "controls": 0}
    found = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK, **options)
    cells, rows = anndata.read_h5ad(made / "cells.h5ad"), found.tables["cells"]
    assert set(cells.obs["cell_type"].iloc[rows["row"]]) == {"Mono"}
    np.testing.assert_allclose(rows["shift"], 1 - rows["cosine"])


def test_no_start_method_of_processes_is_set(made):
    """A constructor that sets it makes scripts without a main guard run twice."""
    before = multiprocessing.get_start_method(allow_none=True)
    model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK, genes=["CD74"], controls=0)
    assert multiprocessing.get_start_method(allow_none=True) == before


def test_each_two_genes_of_a_list_are_changed_together(made):
    genes = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK).tables["genes"]
    names = genes.sort_values("n_cells", ascending=False)["gene"].tolist()[:3]
    found = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK, genes=names, pairs=True, controls=0)
    pairs = found.tables["pairs"]
    assert {frozenset(pair) for pair in zip(pairs["anchor"], pairs["gene"], strict=True)} == {
        frozenset(pair) for pair in combinations(names, 2)
    }
    one = pairs.iloc[0]
    beside = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK, genes=[one["gene"]],
                                    anchor=one["anchor"], controls=0).tables["pairs"].iloc[0]  # fmt: skip
    for name in ("n_cells", "anchor_shift", "gene_shift", "pair_shift", "interaction"):
        assert one[name] == pytest.approx(beside[name], abs=1e-6)


def test_a_screen_says_how_far_it_may_be_believed(made):
    options = {**FEW, "permutations": 0, "random_weights": False, "min_cells": 4}
    whole = model_of(made).analyse("perturb", made / "cells.h5ad", **options).tables["genes"].set_index("gene")
    found = model_of(made).analyse("perturb", made / "cells.h5ad", **options, screen=10, controls=40)
    genes = found.tables["genes"].set_index("gene")
    assert (~genes["control"]).sum() == 10 and 10 < len(genes) <= 50
    np.testing.assert_allclose(genes["shift"], whole.loc[genes.index, "shift"], atol=1e-6)
    both = whole.loc[genes.index[genes["control"]]]
    rho = stats.spearmanr(both["shift"], genes.loc[both.index, "screened"]).statistic
    assert f"rank correlation of {rho:.2f}" in " ".join(found.notes)
    assert genes.loc[genes["control"], "fdr"].isna().all()
    tested = genes[~genes["control"]]
    others = np.ones((whole["n_cells"] >= 4).sum() - 10)  # those that the screen left out are tests, too
    np.testing.assert_allclose(tested["fdr"], stats.false_discovery_control(np.r_[tested["p"], others])[:10])
    assert tested["screened"].abs().min() >= genes.loc[genes["control"], "screened"].abs().max()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"genes": ["NO_GENE"]}, "no gene is left to perturb: NO_GENE not in the vocabulary"),
            ({"genes": "all", "min_cells": 5000}, "no gene is read in 5000 of the"),
            ({"state": "cell_type", "start": "B", "goal": "B"}, "must be different states"),
            ({"state": "cell_type", "start": "Blast", "goal": "B"}, "0 cell.s. have cell_type == 'Blast'"),
            ({"state": "cell_typ", "start": "B"}, "obs has no column 'cell_typ'"),
            ({"state": "cell_type"}, "needs analysis.start="),
            ({"start": "B"}, "name it with analysis.state="),
            ({"where": "cell_type == 'none'"}, "leaves no cell"),
            ({"where": "cell_type =="}, "cannot be read"),
            ({"genes": "all", "jointly": True}, "name it with analysis.genes"),
            ({"screen": 5}, "needs analysis.op=delete, analysis.genes=all, analysis.goal="),
            ({"screen": -1}, "screen 0 or more"),
            ({"genes": "all", "pairs": True}, "changes each two genes of a list"),
            ({"op": "scale", "factor": -1.0}, "factor of 0 or more"),
            ({"op": "delte"}, "expected one of delete"),
            ({"trut": "x"}, "did you mean 'truth'"),
            ({"by": "tissue"}, "obs has no column 'tissue'"),
        ],
    )
    def test_one_sentence_before_any_work(self, made, options, words):
        with pytest.raises(ValueError, match=words) as error:
            model_of(made).analyse("perturb", made / "cells.h5ad", **options)
        assert "\n" not in str(error.value)

    def test_a_gene_in_no_cell(self, made):
        model, cells = model_of(made), anndata.read_h5ad(made / "cells.h5ad")
        column = cells.var_names.get_loc("CD74")
        counts = cells.X.tolil()
        counts[:, column] = 0
        cells.X = counts.tocsr()
        with pytest.raises(ValueError, match="CD74 in no cell that is changed"):
            model.analyse("perturb", cells, genes=["CD74"])

    def test_a_state_with_one_donor(self, made):
        cells = anndata.read_h5ad(made / "cells.h5ad")
        cells.obs["donor"] = np.where(cells.obs["cell_type"] == "B", "d0", cells.obs["lane"].astype(str))
        with pytest.raises(ValueError, match="state 'B' has cells of one donor"):
            model_of(made).analyse("perturb", cells, **{**FEW, "donor": "donor"})

    def test_a_checkpoint_of_another_species(self, made):
        cells = anndata.read_h5ad(made / "cells.h5ad")
        cells.var_names = [f"AT1G{i:05d}" for i in range(cells.n_vars)]
        with pytest.raises(ValueError, match="of the counts"):
            model_of(made).analyse("perturb", cells, genes="all")

    def test_a_mask_that_the_vocabulary_lacks(self, made, monkeypatch):
        model = model_of(made)
        tokenizer = dict(model.checkpoint.tokenizer)
        specials = {role: gene for role, gene in model.vocab.specials.items() if role != "mask"}
        tokenizer["vocab"] = {**tokenizer["vocab"], "specials": specials}
        object.__setattr__(model.checkpoint, "tokenizer", tokenizer)
        with pytest.raises(ValueError, match="needs a mask token"):
            model.analyse("perturb", made / "cells.h5ad", op="mask")


def test_a_plan_counts_without_running(made):
    found = model_of(made).analyse("perturb", made / "cells.h5ad", plan=True)
    whole = model_of(made).analyse("perturb", made / "cells.h5ad", **QUICK)
    assert found.tables["plan"]["perturbations"].tolist() == [len(whole.tables["cells"])]
    assert "minutes" in found.summary[0]


def test_a_truth_is_scored_beside_the_baselines(made, tmp_path):
    (tmp_path / "truth.txt").write_text("CD74\nCD79A\nMS4A1\nHLA-DRA\nLYZ\nS100A8\nS100A9\n")
    truth = str(tmp_path / "truth.txt")
    found = model_of(made).analyse("perturb", made / "cells.h5ad", **FEW, permutations=20, truth=truth)
    table = found.tables["baselines"].set_index("score")
    assert table["auroc"].between(0, 1).all()
    assert (table["auroc_low"] <= table["auroc_high"]).all()
    better = table.drop(index=["shift", "residual", "z"])["auroc"].max() >= table.loc["shift", "auroc"]
    assert ("does no better than" if better else "does better than") in found.summary[0]


def test_groups_are_named_by_their_genes():
    assert name_set((4, 5), Vocab(("a", "b", "c", "d", "ENSG00000141510", "ENSG00000012048"), {})) == (
        "ENSG00000141510+ENSG00000012048", "TP53+BRCA1",
    )  # fmt: skip
