"""Matrix Market folders: what their lines may look like, and which sample is read."""

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
