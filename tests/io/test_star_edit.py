"""Copies of STAR files with other columns: what is meant changes, and not a byte besides."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import MetadataError
from cryolike.io.star_blocks import read_star_blocks, value_spans
from cryolike.io.star_edit import StarColumn, copy_star

RELION_31 = b"""# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
           1   300.000000


# a comment between tables
data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnDefocusU #3
_rlnAnglePsi #4
000001@a.mrcs    12.500000 1.0000000000000001e4  -3.000000
000002@a.mrcs  -170.250000 20000.10  4.0

data_trailing
loop_
_rlnAngleRot #1
7
"""


def edited(tmp_path: Path, text: bytes, *columns: StarColumn, name: str = "particles") -> bytes:
    """Copy with columns of the block that has image names."""
    path = tmp_path / "in.star"
    path.write_bytes(text)
    table = next(b for b in read_star_blocks(path) if "ImageName" in b.columns)
    out = io.BytesIO()
    copy_star(table, columns, out, name=name)
    return out.getvalue()


def numbers(label: str, *values: float, is_set: list[bool] | None = None) -> StarColumn:
    """Column of numbers."""
    mask = None if is_set is None else np.array(is_set)
    return StarColumn(label=label, values=np.array(values), is_set=mask)


def test_nothing_else_changes(tmp_path: Path) -> None:
    """The text that stays is the same to the byte: comments, blanks, digits, other tables."""
    wanted = (
        RELION_31.replace(b"   12.500000", b"    1.000000")
        .replace(b"-170.250000", b"   2.000000")
        .replace(b"_rlnAnglePsi #4\n", b"_rlnAnglePsi #4\n_rlnAngleTilt #5\n")
        .replace(b"-3.000000\n", b" 5.000000 90.500000\n")
        .replace(b"  4.0\n", b"  6.000000 91.000000\n")
    )
    columns = {"AnglePsi": (5.0, 6.0), "AngleTilt": (90.5, 91.0), "AngleRot": (1.0, 2.0)}
    found = edited(tmp_path, RELION_31, *(numbers(k, *values) for k, values in columns.items()))
    assert found == wanted


def test_rows_that_keep_their_value(tmp_path: Path) -> None:
    """Where no new value is set the old text stays."""
    found = edited(tmp_path, RELION_31, numbers("AngleRot", 1, 2, is_set=[False, True]))
    assert found == RELION_31.replace(b"-170.250000", b"   2.000000")


def test_quotes_comments_and_tabs(tmp_path: Path) -> None:
    """Quoted values with blanks count as one, stay quoted, and comments stay at the end."""
    text = (
        b"data_\nloop_\n_rlnImageName\n_rlnGroupName\n_rlnAngleRot\n\n"
        b"# before the rows\n"
        b"1@a.mrcs\t'it''s # one'\t3.5  # why\n"
        b"\n"
        b'"2@b c.mrcs"\tgroup"#2\t-1\r\n'
        b"# after the rows"
    )
    found = edited(tmp_path, text, numbers("AngleRot", 1, 2), numbers("OriginXAngst", 3, 4))
    assert found == (
        b"data_particles\nloop_\n_rlnImageName\n_rlnGroupName\n_rlnAngleRot\n_rlnOriginXAngst\n\n"
        b"# before the rows\n"
        b"1@a.mrcs\t'it''s # one'\t1.000000\t3.000000  # why\n"
        b"\n"
        b'"2@b c.mrcs"\tgroup"#2\t2.000000\t4.000000\r\n'
        b"# after the rows"
    )


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    """Both stay, and new lines end like the others; a last line without an end stays so."""
    text = b"\xef\xbb\xbfdata_images\r\n\r\nloop_\r\n_rlnImageName #1\r\n1@a.mrcs\r\n2@a.mrcs"
    found = edited(tmp_path, text, numbers("AngleRot", 1, 2))
    assert found == (
        b"\xef\xbb\xbfdata_particles\r\n\r\nloop_\r\n_rlnImageName #1\r\n_rlnAngleRot #2\r\n"
        b"1@a.mrcs 1.000000\r\n2@a.mrcs 2.000000"
    )


def test_labels_without_prefix(tmp_path: Path) -> None:
    """A label that the file writes without rln is the same column."""
    text = b"data_particles\nloop_\n_ImageName\n_AngleRot\n1@a.mrcs 5\n"
    assert edited(tmp_path, text, numbers("AngleRot", 1)) == text.replace(b" 5", b" 1.000000")


@pytest.mark.parametrize("end", [b"\n", b""])
def test_table_of_one_row(tmp_path: Path, end: bytes) -> None:
    """Values beside their labels are replaced and added there."""
    text = b"data_particles\n_rlnImageName 1@a.mrcs\n_rlnAngleRot 5 # old" + end
    found = edited(tmp_path, text, numbers("AngleRot", 1), numbers("AnglePsi", 2))
    assert found == (
        b"data_particles\n_rlnImageName 1@a.mrcs\n_rlnAngleRot 1.000000 # old\n"
        b"_rlnAnglePsi 2.000000\n"
    )


def test_rows_with_a_wrong_number_of_values_are_left_out(tmp_path: Path) -> None:
    """They are counted as rows, and are not in the copy, which other programs would refuse."""
    text = b"data_particles\nloop_\n_rlnImageName\n_rlnAngleRot\n1@a 1\n2@a\n3@a 3\n"
    found = edited(tmp_path, text, numbers("AngleRot", 7, 8, 9))
    assert found == text.replace(b"2@a\n", b"").replace(b" 1\n", b" 7.000000\n").replace(
        b" 3\n", b" 9.000000\n"
    )


@pytest.mark.parametrize(
    "gone",
    [
        b"000002@a.mrcs  -170.250000 20000.10  4.0\n",
        b"000002@a.mrcs  -170.250000 20000.10  4.0\n\ndata_trailing\nloop_\n_rlnAngleRot #1\n7\n",
        b"_rlnDefocusU #3\n",
    ],
)
def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, gone: bytes) -> None:
    """Rows or labels lost after the structure was read are an error, not a copy of what is left."""
    path = tmp_path / "in.star"
    path.write_bytes(RELION_31)
    table = read_star_blocks(path)[1]
    path.write_bytes(RELION_31.replace(gone, b""))
    with pytest.raises(MetadataError, match="changed"):
        copy_star(table, [numbers("AngleRot", 1, 2)], io.BytesIO(), name="particles")


def test_large_files_are_read_by_starfile(tmp_path: Path) -> None:
    """Another reader finds the new values, in the order of the rows, and the old ones beside."""
    n = 5_000
    rng = np.random.default_rng(0)
    old, new = rng.uniform(-180, 180, (2, n))
    rows = "".join(f"{i:06d}@stack.mrcs {i} {v:.3f}\n" for i, v in enumerate(old))
    text = f"data_particles\n\nloop_\n_rlnImageName\n_rlnNumber\n_rlnAngleRot\n{rows}".encode()
    is_set = rng.random(n) < 0.5
    column = numbers("AngleRot", *new, is_set=is_set.tolist())
    (tmp_path / "out.star").write_bytes(edited(tmp_path, text, column))
    frame = starfile.read(tmp_path / "out.star")
    np.testing.assert_allclose(frame["rlnAngleRot"], np.where(is_set, new, old), atol=6e-4)
    np.testing.assert_array_equal(frame["rlnNumber"], np.arange(n))


@given(st.text("ab \t#'\"", max_size=16))
def test_spans_cover_all_but_blanks_and_comments(text: str) -> None:
    """Between the values of a line are blanks only, and after them blanks or a comment."""
    line = text.encode()
    edges = [0, *(edge for span in value_spans(line) for edge in span)]
    gaps = [line[a:b] for a, b in zip(edges[::2], edges[1::2], strict=False)]
    assert all(not gap.strip() for gap in gaps)
    assert all(line[a:b].strip() for a, b in value_spans(line))
    rest = line[edges[-1] :].strip()
    assert not rest or rest.startswith(b"#")
