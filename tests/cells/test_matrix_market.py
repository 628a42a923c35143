"""Matrix Market folders: what their lines may look like, and which sample is read."""

import gzip

import pytest

from scfm.cells.file import open_cells

HEAD = "%%MatrixMarket matrix coordinate integer general\n"


def write(folder, lines, prefix="", size="3 2 3", head=HEAD, matrix="matrix.mtx"):
    folder.mkdir(exist_ok=True)
    (folder / f"{prefix}{matrix}").write_text(head + size + "\n" + "\n".join(lines) + "\n")
    (folder / f"{prefix}barcodes.tsv").write_text(f"{prefix}c1\n{prefix}c2\n")
    (folder / f"{prefix}genes.tsv").write_text("ENSG1\tA\nENSG2\tB\nENSG3\tC\n")
    return folder


LINES = ["1 1 5", "2 1 6", "3 2 7"]


def dense(path, **options):
    with open_cells(path, **options) as opened:
        return next(opened.blocks()).counts.toarray().tolist()


def test_three_numbers(tmp_path):
    assert dense(write(tmp_path / "x", LINES)) == [[5, 6, 0], [0, 0, 7]]
    assert dense(write(tmp_path / "x", ["% a remark", *LINES])) == [[5, 6, 0], [0, 0, 7]]
    assert dense(write(tmp_path / "x", ["1\t1\t5 ", " 2 1 6", "3 2  7"])) == [[5, 6, 0], [0, 0, 7]]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
        gzip.compress,
        lambda text: b"".join(gzip.compress(text[i : i + 7]) for i in range(0, len(text), 7)),
    ],
    ids=["byte order mark", "CRLF", "both", "gzip by another name", "gzip of several members"],
)
def test_texts_as_other_programs_write_them(tmp_path, change):
    folder = write(tmp_path / "x", ["% a remark", *LINES])
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))
    with open_cells(folder) as opened:
        assert next(opened.blocks()).counts.toarray().tolist() == [[5, 6, 0], [0, 0, 7]]
        assert opened.genes == ["ENSG1", "ENSG2", "ENSG3"] or opened.genes == ["A", "B", "C"]
        assert list(opened.obs.index) == ["c1", "c2"]
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in folder.iterdir():
        path.rename(renamed / f"{path.name}.gz")
    assert dense(renamed) == [[5, 6, 0], [0, 0, 7]]


def test_titles_of_columns_are_named(tmp_path):
    folder = write(tmp_path / "x", LINES)
    for name, title in (("barcodes.tsv", "barcode"), ("genes.tsv", "id\tname")):
        (folder / name).write_text(f"{title}\n{(folder / name).read_text()}")
    with pytest.raises(ValueError, match=r"4 features and 3 barcodes; 'id' and 'barcode' look like titles .*: remove"):
        open_cells(folder)
    (folder / "genes.tsv").write_text("ENSG1\tA\nENSG2\tB\nENSG3\tC\n")
    with pytest.raises(ValueError, match=r"3 features and 3 barcodes; 'barcode' looks like the title .*: remove this"):
        open_cells(folder)


def test_unsigned_integers_and_row_numbers(tmp_path):
    """As scipy writes whole numbers without sign, and R the rows of a table."""
    head = HEAD.replace("integer", "unsigned-integer")
    folder = write(tmp_path / "x", LINES, head=head)
    assert dense(folder) == [[5, 6, 0], [0, 0, 7]]
    (folder / "genes.tsv").write_text("1\tENSG1\tA\n2\tENSG2\tB\n3\tENSG3\tC\n")
    with open_cells(folder, gene_column="gene_ids") as opened:
        assert opened.genes == ["ENSG1", "ENSG2", "ENSG3"]
    with open_cells(folder, gene_column="index") as opened:
        assert opened.genes == ["A", "B", "C"]


def test_a_third_column_of_many_values_holds_no_kinds_of_features(tmp_path):
    genes = [f"ENSG{i}\tG{i}\tchr{i}" for i in range(30)]
    folder = write(tmp_path / "x", LINES, size="30 2 3")
    (folder / "genes.tsv").write_text("\n".join(genes))
    assert len(dense(folder)[0]) == 30
    (folder / "genes.tsv").write_text("\n".join(f"ENSG{i}\tG{i}\tkind{i % 20}" for i in range(30)))
    with pytest.raises(ValueError, match=r"several kinds .*'kind7' \(2 features\) and 12 more\. Name"):
        open_cells(folder)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 1 5 3 4", "2 1 6 0 0", "3 2 7 1 1"], "has lines of 5 numbers, expected 3"),
        (["1 1 5 3", "2 1 6 0", "3 2 7 1"], "has lines of 4 numbers, expected 3"),
        (["1 1", "2 1", "3 2"], "has lines of 2 numbers, expected 3"),
        (["1 1 5", "2 1 6 9", "3 2 7"], "a line of more numbers than the first"),
        (["1 1 5", "2 1", "3 2 7"], "a line of fewer than 3 numbers|a line that is not of three numbers"),
        (["1 1 5", "2 1 x", "3 2 7"], "a line that is not of three numbers"),
        (["1 1 5", "2 1 6.5", "3 2 7"], "a line that is not of three numbers"),
        (["1 1 5", "2 1 6", "3 2 5000000000"], "has the value 5000000000"),
        (["1 1 5", "2 1 6"], "has 2 entries, its header promises 3"),
        (["1 1 5", "2 1 6", "3 9 7"], "outside its 3 x 2 places"),
    ],
)
def test_other_lines_are_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=rf"x: its matrix\.mtx.*({message})") as caught:
        dense(write(tmp_path / "x", lines))
    assert "\n" not in str(caught.value)


def test_the_reference_case_of_five_columns(shared):
    with pytest.raises(ValueError, match=r"o16_star5: its matrix\.mtx has lines of 5 numbers"):
        dense(shared / "cases" / "files" / "o16_star5")


@pytest.fixture
def samples(tmp_path):
    write(tmp_path / "geo", LINES, prefix="GSM1_T1_")
    return write(tmp_path / "geo", ["1 1 9", "2 1 8", "3 2 7"], prefix="GSM1_T10_")


def test_several_samples_of_a_folder_are_several_inputs(samples):
    with pytest.raises(
        ValueError, match=r"'GSM1_T10_matrix\.mtx', 'GSM1_T1_matrix\.mtx'.*input=.*GSM1_T10_matrix\.mtx"
    ):
        open_cells(samples)
    assert dense(samples / "GSM1_T1_matrix.mtx") == [[5, 6, 0], [0, 0, 7]]
    with open_cells(samples / "GSM1_T10_matrix.mtx") as opened:
        assert list(opened.obs.index) == ["GSM1_T10_c1", "GSM1_T10_c2"]
        assert next(opened.blocks()).counts.toarray().tolist() == [[9, 8, 0], [0, 0, 7]]


@pytest.mark.parametrize("matrix", ["UniqueAndMult-EM.mtx", "spliced.mtx", "counts.mtx"])
def test_other_matrices_are_listed_and_can_be_given(tmp_path, matrix):
    folder = write(tmp_path / "x", LINES, matrix=matrix)
    with pytest.raises(ValueError, match=rf"x: has no matrix\.mtx, but '{matrix}'; give the file.*input=.*{matrix}"):
        open_cells(folder)
    assert dense(folder / matrix) == [[5, 6, 0], [0, 0, 7]]
    write(folder, ["1 1 1", "2 1 1", "3 2 1"])
    assert dense(folder) == [[1, 1, 0], [0, 0, 1]]
    assert dense(folder / matrix) == [[5, 6, 0], [0, 0, 7]]


def test_the_names_of_kallisto_bustools(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "cells_x_genes.mtx").write_text(HEAD + "2 3 3\n1 1 5\n1 2 6\n2 3 7\n")
    (folder / "cells_x_genes.barcodes.txt").write_text("c1\nc2\n")
    (folder / "cells_x_genes.genes.txt").write_text("ENSG1\nENSG2\nENSG3\n")
    (folder / "cells_x_genes.genes.names.txt").write_text("A\nB\nC\n")
    assert dense(folder / "cells_x_genes.mtx") == [[5, 6, 0], [0, 0, 7]]


def test_a_matrix_without_its_barcodes(tmp_path):
    folder = write(tmp_path / "x", LINES, prefix="a_")
    write(folder, LINES, prefix="b_")
    (folder / "a_barcodes.tsv").unlink()
    with pytest.raises(ValueError, match=r"needs one barcodes\.tsv \(\.gz or not\) for its a_matrix\.mtx, found 'b_"):
        open_cells(folder / "a_matrix.mtx")
    with pytest.raises(ValueError, match="is one file of a 10x folder"):
        open_cells(folder / "b_barcodes.tsv")


def test_the_reference_case_of_two_samples(shared):
    folder = shared / "cases" / "files" / "o13_geo"
    with open_cells(folder / "GSM1_T1_matrix.mtx") as one, open_cells(folder / "GSM2_T2_matrix.mtx") as two:
        assert (one.n_cells, two.n_cells) == (12, 12)
        assert not set(one.obs.index) & set(two.obs.index)


def test_the_barcodes_of_another_sample_are_not_taken(samples):
    (samples / "GSM1_T10_barcodes.tsv").unlink()
    with pytest.raises(ValueError, match=r"needs one barcodes\.tsv.* for its GSM1_T10_matrix\.mtx"):
        open_cells(samples / "GSM1_T10_matrix.mtx")


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "genes.tsv"])
def test_a_link_that_leads_out_of_the_folder_is_not_read(tmp_path, name):
    folder = write(tmp_path / "x", LINES)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=rf"x: is not safe: its {name} is a link to a file elsewhere"):
        dense(folder)
    (folder / name).unlink()
    (tmp_path / name).rename(folder / f"real_{name}x")
    (folder / name).symlink_to(f"real_{name}x")
    (tmp_path / "linked").symlink_to(folder)
    assert dense(folder) == dense(tmp_path / "linked") == [[5, 6, 0], [0, 0, 7]]


def test_a_matrix_that_the_user_names_may_be_a_link_its_names_may_not(tmp_path):
    folder = write(tmp_path / "x", LINES)
    (folder / "matrix.mtx").rename(tmp_path / "m.mtx")
    (folder / "matrix.mtx").symlink_to(tmp_path / "m.mtx")
    assert dense(folder / "matrix.mtx") == [[5, 6, 0], [0, 0, 7]]
    (folder / "barcodes.tsv").rename(tmp_path / "b.tsv")
    (folder / "barcodes.tsv").symlink_to(tmp_path / "b.tsv")
    with pytest.raises(ValueError, match=r"its barcodes\.tsv is a link"):
        dense(folder / "matrix.mtx")


@pytest.mark.parametrize("line", [b"1 1 1\n" * 2000, bytes(12_000), b"a\tb\tc\n" * 1500])
@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "genes.tsv"])
def test_a_few_bytes_that_stand_for_gigabytes_are_refused(tmp_path, monkeypatch, name, line):
    monkeypatch.setattr("scfm.cells.formats.folder_limits.LARGE", 1 << 20)
    folder = write(tmp_path / "x", LINES)
    sound = (folder / name).read_bytes()
    (folder / name).unlink()
    with gzip.open(folder / f"{name}.gz", "wb") as file:
        file.write(sound)
        for _ in range(5000):
            file.write(line)
    with pytest.raises(
        ValueError, match=rf"x: its {name}.*(unpacks to more than|entries|numbers|fields)|3 x 2 "
    ) as caught:
        dense(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "genes.tsv"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_a_gzip_file_of_changed_bytes_is_refused_in_a_sentence(tmp_path, name, place):
    folder = write(tmp_path / "x", LINES)
    packed = bytearray(gzip.compress((folder / name).read_bytes(), mtime=0))
    (folder / name).unlink()
    for bit in range(8):
        changed = bytearray(packed)
        changed[int(place * (len(packed) - 12)) + 10 if place else 1] ^= 1 << bit
        (folder / f"{name}.gz").write_bytes(changed)
        try:
            assert dense(folder) == [[5, 6, 0], [0, 0, 7]]  # it was a bit that fills up the last byte
        except ValueError as error:
            assert "x: its " in str(error)
            assert "\n" not in str(error)


@pytest.mark.parametrize("size", ["3 2 -1", "-3 2 3", "3000000000 2 3", "3000000000 3000000000 3"])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=r"x: its matrix\.mtx (has the size line|claims)"):
        dense(write(tmp_path / "x", LINES, size=size))


def test_more_entries_than_the_header_says(tmp_path):
    with pytest.raises(ValueError, match="has at least 3 entries, its header promises 2"):
        dense(write(tmp_path / "x", LINES, size="3 2 2"))
