"""Files that once broke a reader: each is now read, or refused in words that fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cryolike.errors import MetadataError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable
from cryolike.testing import check_table, result_or_refusal

FILES = Path(__file__).parent / "files"

REFUSED = {
    # an error of NumPy or Python came out, not one of ours
    "deep_header.cs": "header of this NumPy file is damaged",
    "empty_type.cs": "header of this NumPy file is damaged",
    "header_of_gigabytes.cs": "",
    "overflowing_shape.cs": "",
    "impossible_characters.cs": "blob/path is of type",
    "deep.csg": "not a YAML file",
    "empty_integer.csg": "not a YAML file",
    "long_sexagesimal.csg": "not a YAML file",
    "wrong_flag.csg": "not a YAML file",
    "wrong_time.csg": "not a YAML file",
    # memory for a million billion rows was asked for
    "rows_without_bytes.cs": "have no bytes",
}
"""What the message says; where it depends on how much memory there is, nothing."""

READ = {
    # a warning of NumPy came out
    "deprecated_type.cs": None,
    "signalling_nan.cs": None,
    "overflowing_numbers.star": 2,
    # an error came out
    "vectors_of_no_length.cs": None,
    "label_of_5000_digits.star": 1,
    # a quoted value was taken for a label
    "value_like_a_label.star": 2,
}
"""How many rows; None where that says nothing."""


def reader_of(name: str) -> Callable[[Path], ParticleTable]:
    """Choose the reader by the ending."""
    return read_star if name.endswith(".star") else read_cryosparc


def test_every_file_is_read_by_a_test() -> None:
    """No file lies about."""
    assert {path.name for path in FILES.iterdir()} == REFUSED.keys() | READ.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused(name: str) -> None:
    """With one of our errors, without warnings, and at once."""
    error = result_or_refusal(reader_of(name), FILES / name)
    assert isinstance(error, MetadataError)
    assert REFUSED[name] in str(error)


@pytest.mark.parametrize("name", READ)
def test_file_is_read(name: str) -> None:
    """Without warnings; what cannot be used of it is among its problems."""
    table = result_or_refusal(reader_of(name), FILES / name)
    assert isinstance(table, ParticleTable), str(table)
    check_table(table)
    assert READ[name] in (None, len(table))


def test_quoted_values_stay_values() -> None:
    """The first value of the first row may begin with an underscore, or be `loop_`."""
    table = read_star(FILES / "value_like_a_label.star")
    assert [table.image_name(row) for row in range(2)] == ["000001@a.mrcs", "000002@a.mrcs"]
    assert table.problems == ()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        b"data_" * 50_000 + b" x",
        b"data_\nloop_\n_rlnImageName\n" + b'"a ' * 80_000,
        b"data_\nloop_\n_rlnImageName\n" + b"'a " * 80_000,
    ],
    ids=["keyword repeated", "double quotes", "single quotes"],
)
def test_long_lines_take_little_time(content: bytes, tmp_path: Path) -> None:
    """Lines of 250 kB took minutes to hours."""
    path = tmp_path / "a.star"
    path.write_bytes(content)
    assert isinstance(result_or_refusal(read_star, path), MetadataError)


def test_many_blocks_take_little_time(tmp_path: Path) -> None:
    """A file of 250 kB took minutes; run alone, since checking types takes longer than reading."""
    path = tmp_path / "a.star"
    path.write_bytes(b"data_\n" * 40_000)
    code = "import sys; from cryolike.io.star_blocks import read_star_blocks as read; "
    code += "print(len(read(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["40000"]
