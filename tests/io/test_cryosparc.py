"""cryoSPARC .cs files, .csg groups and job directories."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryolike.errors import CryoLikeError, MetadataError, MissingFileError, StackError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.particles import ParticleTable

N_ROWS = 6
CTF = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/cs_mm", "ctf/accel_kv")

Fields = dict[str, np.ndarray]


def uids(n: int = N_ROWS) -> np.ndarray:
    """Numbers above 2^63 that a float64 cannot tell apart."""
    return np.uint64(2**63) + np.arange(1, n + 1, dtype=np.uint64)


def ctf_fields(n: int = N_ROWS) -> Fields:
    """CTF fields, different in every row."""
    row = np.arange(n, dtype=np.float32)
    return {
        "ctf/exp_group_id": np.arange(n, dtype=np.uint32) % 2,
        "ctf/accel_kv": np.where(row % 2 == 0, 300, 200).astype(np.float32),
        "ctf/cs_mm": (2.7 - 0.25 * row).astype(np.float32),
        "ctf/amp_contrast": (0.0625 * (row + 1)).astype(np.float32),
        "ctf/df1_A": 15000 + 100 * row,
        "ctf/df2_A": 14000 + 100 * row,
        "ctf/df_angle_rad": 0.5 * row - 1,
        "ctf/phase_shift_rad": 0.25 * row,
        "ctf/scale": np.ones(n, dtype=np.float32),
        "ctf/bfactor": np.zeros(n, dtype=np.float32),
        "ctf/tilt_A": np.zeros((n, 2), dtype=np.float32),
        "ctf/anisomag": np.zeros((n, 4), dtype=np.float32),
    }


def blob_fields(n: int = N_ROWS) -> Fields:
    """Image fields: two stacks, in turns."""
    row = np.arange(n)
    names = np.array([b"J1/extract/b.mrc", b"J1/extract/a.mrc"], dtype="S40")
    return {
        "blob/path": names[row % 2],
        "blob/idx": (row // 2).astype(np.uint32),
        "blob/shape": np.full((n, 2), 64, dtype=np.uint32),
        "blob/psize_A": np.full(n, 1.5, dtype=np.float32),
        "blob/sign": np.where(row % 2 == 0, -1, 1).astype(np.float32),
    }


def whole(n: int = N_ROWS) -> Fields:
    """All fields that one file can hold."""
    return {"uid": uids(n), **blob_fields(n), **ctf_fields(n)}


def records(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """One structured row for each particle."""
    dtype: list[Any] = [(name, v.dtype, v.shape[1:]) for name, v in fields.items()]
    out = np.zeros(len(next(iter(fields.values()))), dtype=dtype)
    for name, values in fields.items():
        out[name] = values
    return out


def save(path: Path, array: np.ndarray | Fields) -> Path:
    """Write a .cs file as cryoSPARC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.save(stream, records(array) if isinstance(array, dict) else array)
    return path


def without(fields: Fields, *names: str) -> Fields:
    """Leave out fields whose name begins so."""
    return {name: v for name, v in fields.items() if not name.startswith(names)}


def rows_of(fields: Fields, rows: Sequence[int] | np.ndarray) -> Fields:
    """Choose and order rows."""
    return {name: v[np.asarray(rows)] for name, v in fields.items()}


def warnings_of(table: ParticleTable) -> list[str]:
    """Messages of the notices that are warnings."""
    return [notice.message for notice in table.notices if notice.level == "warning"]


def assert_is_whole(table: ParticleTable, n: int = N_ROWS) -> None:
    """Check every column against what `whole` wrote."""
    fields = whole(n)
    assert table.problems == ()
    assert len(table) == n
    np.testing.assert_array_equal(table.source_row, np.arange(n))
    for name, field in (
        ("uid", "uid"),
        ("image_index", "blob/idx"),
        ("pixel_size_A", "blob/psize_A"),
        ("contrast_sign", "blob/sign"),
        ("defocus_u_A", "ctf/df1_A"),
        ("defocus_v_A", "ctf/df2_A"),
        ("defocus_angle_rad", "ctf/df_angle_rad"),
        ("spherical_aberration_mm", "ctf/cs_mm"),
        ("voltage_kV", "ctf/accel_kv"),
        ("amplitude_contrast", "ctf/amp_contrast"),
        ("phase_shift_rad", "ctf/phase_shift_rad"),
    ):
        np.testing.assert_array_equal(getattr(table, name), fields[field], err_msg=name)
    names = [table.image_files[i].encode() for i in table.image_file_index]
    assert names == fields["blob/path"].tolist()


# Reading one file


def test_every_row_keeps_its_own_values(tmp_path: Path) -> None:
    """Voltage, Cs, amplitude contrast, sign and all else are per row, in the order of the file."""
    table = read_cryosparc(save(tmp_path / "a.cs", whole()))
    assert_is_whole(table)
    assert table.kind == "cryosparc"
    assert table.metadata_files == (str(tmp_path / "a.cs"),)
    assert table.pixel_size_source == "blob/psize_A"
    assert warnings_of(table) == []
    np.testing.assert_array_equal(table.ctf_bfactor_A2, np.zeros(N_ROWS))
    np.testing.assert_array_equal(table.ctf_scale, np.ones(N_ROWS))


def test_types_are_those_of_the_table(tmp_path: Path) -> None:
    """Unsigned indices become int64, physical columns float64, uids stay uint64."""
    table = read_cryosparc(save(tmp_path / "a.cs", whole()))
    assert table.image_index.dtype == np.int64
    assert table.image_file_index.dtype == np.int64
    assert table.voltage_kV.dtype == np.float64
    assert table.uid is not None
    assert table.uid.dtype == np.uint64
    assert table.box_px is not None
    assert table.box_px.tolist() == [64] * N_ROWS


def test_optics_group_and_class_are_text(tmp_path: Path) -> None:
    """Labels are kept as the file writes them; the 3-D class counts before the 2-D class."""
    classes = {
        "alignments2D/class": np.full(N_ROWS, 7, dtype=np.uint32),
        "alignments3D/class": np.array([0, 1, 10, 1, 0, 2], dtype=np.uint32),
    }
    both = read_cryosparc(save(tmp_path / "a.cs", whole() | classes))
    assert both.class_label is not None
    assert both.class_label.tolist() == ["0", "1", "10", "1", "0", "2"]
    assert both.optics_group is not None
    assert both.optics_group.tolist() == ["0", "1", "0", "1", "0", "1"]
    only_2d = whole() | {"alignments2D/class": classes["alignments2D/class"]}
    table = read_cryosparc(save(tmp_path / "b.cs", only_2d))
    assert table.class_label is not None
    assert table.class_label.tolist() == ["7"] * N_ROWS


def test_optional_fields_may_be_absent(tmp_path: Path) -> None:
    """Without uid, pixel size, sign, shape and groups the columns are None or NaN."""
    fields = without(whole(), "uid", "blob/psize", "blob/sign", "blob/shape", "ctf/exp")
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert table.problems == ()
    assert table.uid is None
    assert table.contrast_sign is None
    assert table.box_px is None
    assert table.optics_group is None
    assert table.class_label is None
    assert np.isnan(table.pixel_size_A).all()
    assert table.pixel_size_source == ""


@pytest.mark.parametrize("field", ["ctf/amp_contrast", "ctf/ac", "ctf/amp_constrast"])
def test_all_names_of_the_amplitude_contrast_are_read(tmp_path: Path, field: str) -> None:
    """The name in use, the old one and the misspelt one give the same values."""
    fields = without(whole(), "ctf/amp_contrast")
    fields[field] = whole()["ctf/amp_contrast"]
    assert_is_whole(read_cryosparc(save(tmp_path / "a.cs", fields)))


def test_the_real_name_of_the_amplitude_contrast_counts_first(tmp_path: Path) -> None:
    """Where several spellings are there, ctf/amp_contrast wins."""
    other = np.full(N_ROWS, 0.5, dtype=np.float32)
    fields = {"ctf/amp_constrast": other, "ctf/ac": other} | whole()
    assert_is_whole(read_cryosparc(save(tmp_path / "a.cs", fields)))


def test_phase_shift_and_amplitude_contrast_have_defaults(tmp_path: Path) -> None:
    """Missing ones become 0 and 0.1, each with a warning that counts the rows."""
    fields = without(whole(), "ctf/phase", "ctf/amp")
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert table.problems == ()
    assert table.phase_shift_rad.tolist() == [0.0] * N_ROWS
    assert table.amplitude_contrast.tolist() == [0.1] * N_ROWS
    assert len(warnings_of(table)) == 2
    assert any("ctf/phase_shift_rad" in w and "6 rows" in w for w in warnings_of(table))
    assert any("ctf/amp_contrast" in w and "6 rows" in w for w in warnings_of(table))


def test_paths_keep_their_mark_and_lose_padding(tmp_path: Path) -> None:
    """A leading '>' stays; NULs and spaces around a name go; equal names become one stack."""
    fields = whole(4)
    fields["blob/path"] = np.array([b">J1/x.mrc", b"y.mrc  ", b"y.mrc\0junk", b"y.mrc"], "S20")
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert table.image_files == (">J1/x.mrc", "y.mrc")
    assert table.image_file_index.tolist() == [0, 1, 1, 1]


def test_paths_may_be_of_any_bytes(tmp_path: Path) -> None:
    """Names decode as UTF-8, and other bytes come back unchanged for the file system."""
    fields = whole(3)
    raw = [b"\xc3\xa9.mrc", b"\xe9.mrc", b"\xc3\xa9.mrc"]
    fields["blob/path"] = np.array(raw, "S20")
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert table.image_files[0] == "é.mrc"
    assert [os.fsencode(table.image_files[i]) for i in table.image_file_index] == raw


def test_paths_as_unicode_strings_are_read(tmp_path: Path) -> None:
    """A column of str gives the same names as one of bytes."""
    fields = whole()
    fields["blob/path"] = fields["blob/path"].astype("U40")
    assert_is_whole(read_cryosparc(save(tmp_path / "a.cs", fields)))


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    """The byte order of the file does not show in the table."""
    fields = {name: v.astype(v.dtype.newbyteorder(">")) for name, v in whole().items()}
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert_is_whole(table)
    assert table.uid is not None
    assert table.uid.dtype == np.uint64


def test_sets_longer_than_a_block_are_read_whole(tmp_path: Path) -> None:
    """Rows beyond the first block of the file have their own values."""
    n = 65_536 + 3
    fields = without(whole(n), "ctf")
    row = np.arange(n, dtype=np.float64)
    fields |= {
        "ctf/df1_A": 1000 + row,
        "ctf/df2_A": 999 + row,
        "ctf/df_angle_rad": row / n,
        "ctf/cs_mm": np.full(n, 2.7),
        "ctf/accel_kv": np.full(n, 300.0),
    }
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    np.testing.assert_array_equal(table.defocus_u_A, 1000 + row)
    np.testing.assert_array_equal(table.image_file_index, np.arange(n) % 2)
    np.testing.assert_array_equal(table.image_index, np.arange(n) // 2)


def test_many_fields_are_read(tmp_path: Path) -> None:
    """A header above NumPy's default limit, as of a job with 100 classes, is no obstacle."""
    many = {
        f"alignments_class_{i}/class_posterior_{j}": np.zeros(N_ROWS, dtype=np.float32)
        for i in range(100)
        for j in range(4)
    }
    path = save(tmp_path / "a.cs", many | whole())
    assert len(np.lib.format.magic(1, 0)) == 8
    assert path.read_bytes().index(b"\n") > 10_000
    assert_is_whole(read_cryosparc(path))


def test_headers_of_python_2_are_read(tmp_path: Path) -> None:
    """Files of cryoSPARC 2 write row counts as 6L; they read without a warning."""
    path = save(tmp_path / "a.cs", whole())
    data = path.read_bytes()
    assert data.count(b"'shape': (6,), }  ") == 1
    path.write_bytes(data.replace(b"'shape': (6,), }  ", b"'shape': (6L,), } "))
    assert_is_whole(read_cryosparc(path))


def test_box_that_is_not_square_is_not_claimed(tmp_path: Path) -> None:
    """A shape of unequal sides gives 0 and a warning with the count."""
    fields = whole()
    fields["blob/shape"][2] = (64, 32)
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert table.box_px is not None
    assert table.box_px.tolist() == [64, 64, 0, 64, 64, 64]
    assert any("blob/shape" in w and "1 of 6" in w for w in warnings_of(table))


def test_repeated_uids_are_noted(tmp_path: Path) -> None:
    """A plain reading keeps rows that share a uid and warns of their number."""
    fields = whole()
    fields["uid"][5] = fields["uid"][0]
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert len(table) == N_ROWS
    assert any("1 of 6" in w and "uid" in w for w in warnings_of(table))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("ctf/bfactor", 20.0, ("ctf/bfactor", "2 of 6")),
        ("ctf/scale", 0.5, ("ctf/scale", "2 of 6")),
        ("ctf/tilt_A", (0, -125.0), ("beam tilt", "125 Å", "2 of 6")),
        ("ctf/shift_A", (2.5, 0), ("ctf/shift_A", "2.5 Å", "2 of 6")),
        ("ctf/trefoil_A", (300.0, 0), ("trefoil", "300 Å", "2 of 6")),
        ("ctf/tetra_A", (0, 0, 40.0, 0), ("tetrafoil", "40 Å", "2 of 6")),
        ("ctf/anisomag", (0.015625, 0, 0, 0), ("anisotropic", "1.56 %", "2 of 6")),
    ],
)
def test_ignored_terms_are_told(
    tmp_path: Path, field: str, value: float | tuple[float, ...], words: tuple[str, ...]
) -> None:
    """A term that is not used gives one warning with its size and number of rows."""
    fields = whole()
    column = np.zeros((N_ROWS, *np.shape(value)), dtype=np.float32) + (field == "ctf/scale")
    column[[1, 4]] = value
    table = read_cryosparc(save(tmp_path / "a.cs", fields | {field: column}))
    (warning,) = warnings_of(table)
    assert all(word in warning for word in words), warning
    assert table.problems == ()
    assert table.ctf_scale.tolist() == [1.0] * N_ROWS
    assert table.ctf_bfactor_A2.tolist() == [0.0] * N_ROWS


def test_unwrapped_angles_are_accepted(tmp_path: Path) -> None:
    """Angles of a turn and more, as programs write them, raise no doubt and are not changed."""
    fields = whole()
    fields["ctf/df_angle_rad"] = np.array([4.69, -1.55, 7, -12, 12.5, 0], dtype=np.float32)
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    assert warnings_of(table) == []
    np.testing.assert_array_equal(table.defocus_angle_rad, fields["ctf/df_angle_rad"])


@pytest.mark.parametrize(("field", "value"), [("ctf/df_angle_rad", 45), ("ctf/phase_shift_rad", 7)])
def test_angles_in_degrees_are_doubted(tmp_path: Path, field: str, value: float) -> None:
    """Angles beyond what is written in radians give a warning, not a change."""
    fields = whole()
    fields[field][3] = value
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    (warning,) = warnings_of(table)
    assert field in warning
    assert "looks like degrees" in warning
    assert "1 of 6" in warning


# Faults of rows


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ctf/df1_A", np.nan),
        ("ctf/accel_kv", 300_000),
        ("ctf/amp_contrast", 7),
        ("blob/psize_A", np.inf),
        ("blob/sign", 0),
        ("blob/path", b""),
        ("blob/path", b">"),
    ],
)
def test_bad_values_are_problems_of_their_rows(tmp_path: Path, field: str, value: Any) -> None:
    """A bad value is reported with its field, row and uid; leaving the row out clears it."""
    fields = whole()
    fields[field][4] = value
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    (problem,) = table.problems
    assert problem.file == str(tmp_path / "a.cs")
    assert problem.rows is not None
    assert problem.rows.tolist() == [4]
    assert field in problem.message
    assert f"row 4 (uid {uids()[4]})" in problem.places[0]
    assert table.take(np.array([0, 1, 2, 3, 5])).problems == ()


def test_negative_index_is_a_problem(tmp_path: Path) -> None:
    """An image number below 0 is never taken as one counted from the end."""
    fields = whole()
    fields["blob/idx"] = np.array([0, 0, -1, 1, 2, 2], dtype=np.int32)
    table = read_cryosparc(save(tmp_path / "a.cs", fields))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [2]
    assert "blob/idx" in problem.message


@pytest.mark.parametrize("field", CTF)
def test_missing_ctf_field_is_a_problem_of_the_file(tmp_path: Path, field: str) -> None:
    """It names the field, the fields present and what to pass."""
    table = read_cryosparc(save(tmp_path / "a.cs", without(whole(), field)))
    text = "\n".join(map(str, table.problems))
    assert f"missing: {field}" in text
    assert "blob/path" in text
    assert "--passthrough" in text
    assert all(problem.rows is None for problem in table.problems)


def test_missing_image_fields_point_to_job_directories(tmp_path: Path) -> None:
    """A file with nothing about images says how job directories are converted."""
    path = save(tmp_path / "a.cs", without(whole(), "blob", "ctf/cs"))
    with pytest.raises(MetadataError) as caught:
        read_cryosparc(path)
    assert "blob/path, blob/idx, ctf/cs_mm" in str(caught.value)
    assert "cryolike convert job" in str(caught.value)
    assert "--passthrough" in str(caught.value)


def test_missing_path_alone_does_not_point_to_jobs(tmp_path: Path) -> None:
    """A file that has other image fields is no case for job directories."""
    path = save(tmp_path / "a.cs", without(whole(), "blob/path"))
    with pytest.raises(MetadataError, match="missing: blob/path") as caught:
        read_cryosparc(path)
    assert "convert job" not in str(caught.value)


# Files that are not what they seem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\x95CSDAT\x01\x02\x03", "cryosparc-tools"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:7c\nsize 9\n", "git lfs pull"),
        (b"created: 2021\ngroup:\n  name: x\nresults:\n  blob:\n", ".csg"),
        (b"# made by hand\n\ndata_particles\n\nloop_\n_rlnVoltage\n", "convert star"),
        (b"hello there\n", "this is text"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"PK\x03\x04\0\0\0\xff", "ZIP archive"),
        (b"\x01\x02\0\0\0\xff", "binary data"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    """The error says what the file is and what to do with it, and no word of pickles."""
    path = tmp_path / "a.cs"
    path.write_bytes(content)
    with pytest.raises(MetadataError, match=words) as caught:
        read_cryosparc(path)
    assert str(path) in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    """A missing file and a folder each have their own error."""
    with pytest.raises(MissingFileError, match="nothing\\.cs"):
        read_cryosparc(tmp_path / "nothing.cs")
    with pytest.raises(FileNotFoundError):
        read_cryosparc(tmp_path / "nothing.csg")
    with pytest.raises(MetadataError, match="convert job"):
        read_cryosparc(tmp_path)


@pytest.mark.parametrize("n_cut", [1, 100, 400])
def test_truncated_files_are_refused(tmp_path: Path, n_cut: int) -> None:
    """A file without its last bytes is said to be cut short, wherever the cut is."""
    path = save(tmp_path / "a.cs", whole())
    path.write_bytes(path.read_bytes()[:-n_cut])
    with pytest.raises(MetadataError, match="cut short"):
        read_cryosparc(path)


@pytest.mark.parametrize("n_kept", [6, 9, 100])
def test_files_cut_in_the_header_are_refused(tmp_path: Path, n_kept: int) -> None:
    """The same where even the header is not whole."""
    path = save(tmp_path / "a.cs", whole())
    path.write_bytes(path.read_bytes()[:n_kept])
    with pytest.raises(MetadataError, match="cut short"):
        read_cryosparc(path)


def test_zero_rows_are_refused(tmp_path: Path) -> None:
    """A header without rows says 0 particles."""
    path = save(tmp_path / "a.cs", rows_of(whole(), np.zeros(0, dtype=int)))
    with pytest.raises(MetadataError, match="0 particles"):
        read_cryosparc(path)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 3)), np.zeros(()), np.zeros((2, 2), [("uid", "u8")])]
)
def test_plain_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    """An array that is no list of rows is no particle set."""
    with pytest.raises(MetadataError, match="not a table of particles"):
        read_cryosparc(save(tmp_path / "a.cs", array))


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("ctf/df1_A", np.zeros((N_ROWS, 2), dtype=np.float32)),
        ("ctf/cs_mm", np.full(N_ROWS, b"2.7")),
        ("blob/idx", np.zeros(N_ROWS, dtype=np.float32)),
        ("blob/path", np.zeros(N_ROWS, dtype=np.uint32)),
        ("uid", np.arange(N_ROWS, dtype=np.float64)),
    ],
)
def test_columns_of_a_wrong_type_are_refused(
    tmp_path: Path, field: str, column: np.ndarray
) -> None:
    """A column that cannot hold its quantity is named with its type."""
    path = save(tmp_path / "a.cs", whole() | {field: column})
    with pytest.raises(MetadataError, match=f"{field} is of type"):
        read_cryosparc(path)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle by opening the file for writing."""
        return open, (str(self.path), "w")


@pytest.mark.parametrize("dtype", [[("uid", "u8"), ("blob/path", "O")], "O"])
def test_object_arrays_are_never_unpickled(tmp_path: Path, dtype: Any) -> None:
    """A file whose unpickling would run code is refused, and the code did not run."""
    trap = tmp_path / "ran"
    array = np.zeros(1, dtype=dtype)
    if array.dtype.names:
        array["blob/path"][0] = Bomb(trap)
    else:
        array[0] = Bomb(trap)
    path = tmp_path / "a.cs"
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=True)
    assert b"open" in path.read_bytes()
    with pytest.raises(MetadataError, match="never loaded") as caught:
        read_cryosparc(path)
    assert not trap.exists()
    assert "allow_pickle" not in str(caught.value)


def test_bare_pickles_are_never_unpickled(tmp_path: Path) -> None:
    """The same for a pickle that is no NumPy file, which np.load would open."""
    trap = tmp_path / "ran"
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb(trap)], dtype=object), allow_pickle=True)
    path = tmp_path / "a.cs"
    path.write_bytes(stream.getvalue()[stream.getvalue().index(b"\n") + 1 :])
    with pytest.raises(MetadataError, match="not a \\.cs file"):
        read_cryosparc(path)
    assert not trap.exists()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers_give_our_error_or_none(tmp_path: Path, data: st.DataObject) -> None:
    """Changing any bytes of the header never raises anything but the package's own errors."""
    path = save(tmp_path / "a.cs", whole())
    content = bytearray(path.read_bytes())
    header_end = content.index(b"\n")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header_end))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        message = "".join(map(str, read_cryosparc(path).problems))
    except CryoLikeError as error:
        message = str(error)
    assert message == "" or str(path) in message
    assert "allow_pickle" not in message


# Joining


def split_in_two(folder: Path, order: Sequence[int] | np.ndarray) -> tuple[Path, Path]:
    """Write images in one file and the CTF in another of this order, with two more rows."""
    n = N_ROWS + 2
    main = save(folder / "main.cs", {"uid": uids(), **blob_fields()})
    rest = rows_of({"uid": uids(n), **ctf_fields(n)}, order)
    return main, save(folder / "P1_J2_passthrough_particles.cs", rest)


def test_passthrough_is_joined_by_uid(tmp_path: Path) -> None:
    """Rows in another order, with more of them, come to their own particles."""
    main, other = split_in_two(tmp_path, [7, 3, 1, 6, 0, 5, 2, 4])
    table = read_cryosparc(main, passthrough=[other])
    assert_is_whole(table)
    assert table.metadata_files == (str(main), str(other))
    assert table.metadata_index.tolist() == [0] * N_ROWS


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(N_ROWS + 2)))
def test_any_order_of_the_passthrough_gives_the_same(tmp_path: Path, order: list[int]) -> None:
    """The order of the rows in the other file never matters."""
    main, other = split_in_two(tmp_path, order)
    assert_is_whole(read_cryosparc(main, passthrough=[other]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.one_of(st.integers(0, 2**64 - 1), st.integers(2**63, 2**63 + 20)),
        min_size=1,
        max_size=12,
        unique=True,
    ),
    seed=st.integers(0, 99),
)
def test_any_uids_are_joined(tmp_path: Path, values: list[int], seed: int) -> None:
    """Uids of the whole 64-bit range find their own rows."""
    n = len(values)
    fields = whole(n) | {"uid": np.array(values, dtype=np.uint64)}
    fields["ctf/df1_A"] = np.array([float(10_000 + i) for i in range(n)])
    order = np.random.default_rng(seed).permutation(n)
    main = save(tmp_path / "main.cs", without(fields, "ctf"))
    other = save(tmp_path / "other.cs", rows_of(without(fields, "blob"), order))
    table = read_cryosparc(main, passthrough=[other])
    np.testing.assert_array_equal(table.defocus_u_A, fields["ctf/df1_A"])


def test_neighbouring_large_uids_stay_different(tmp_path: Path) -> None:
    """2^63+1 and 2^63+5, one number in float64, keep their own CTF."""
    uid = np.array([2**63 + 1, 2**63 + 5], dtype=np.uint64)
    main = save(tmp_path / "main.cs", {"uid": uid, **blob_fields(2)})
    ctf = {"uid": uid, **ctf_fields(2)}
    other = save(tmp_path / "other.cs", rows_of(ctf, [1, 0]))
    table = read_cryosparc(main, passthrough=[other])
    assert table.uid is not None
    assert table.uid.tolist() == [2**63 + 1, 2**63 + 5]
    assert table.defocus_u_A.tolist() == [15000, 15100]


def test_signed_uids_are_joined(tmp_path: Path) -> None:
    """A file that stores the same 64 bits as signed numbers still matches."""
    main, other = split_in_two(tmp_path, range(N_ROWS + 2))
    fields = {"uid": uids().view(np.int64), **blob_fields()}
    assert_is_whole(read_cryosparc(save(main, fields), passthrough=[other]))


def test_uids_that_are_not_in_the_passthrough_are_counted(tmp_path: Path) -> None:
    """The error gives both files, the number of lost rows, and a guess at the reason."""
    main, other = split_in_two(tmp_path, [0, 2, 3, 7])
    with pytest.raises(MetadataError, match="different jobs") as caught:
        read_cryosparc(main, passthrough=[other])
    assert "3 of 6 uids of main.cs are not in P1_J2_passthrough_particles.cs" in str(caught.value)
    assert f"uid {uids()[1]}" in str(caught.value)


@pytest.mark.parametrize("in_main", [True, False])
def test_repeated_uids_cannot_be_joined(tmp_path: Path, in_main: bool) -> None:
    """Where uids repeat in either file the join is refused, naming file and uid."""
    main, other = split_in_two(tmp_path, range(N_ROWS))
    fields = {"uid": uids(), **(blob_fields() if in_main else ctf_fields())}
    fields["uid"][3] = fields["uid"][2]
    path = save(main if in_main else other, fields)
    with pytest.raises(MetadataError, match="more than once") as caught:
        read_cryosparc(main, passthrough=[other])
    assert str(path) in str(caught.value)
    assert str(uids()[2]) in str(caught.value)


def test_files_without_uid_cannot_be_joined(tmp_path: Path) -> None:
    """Rows are never joined by their position."""
    main, other = split_in_two(tmp_path, range(N_ROWS))
    save(other, ctf_fields())
    with pytest.raises(MetadataError, match="uid is missing"):
        read_cryosparc(main, passthrough=[other])


def test_main_file_counts_where_both_have_a_field(tmp_path: Path) -> None:
    """Differing values of a field in both files are counted in a warning; equal ones are not."""
    main = save(tmp_path / "main.cs", whole())
    fields = rows_of(whole(), [5, 4, 3, 2, 1, 0])
    fields["ctf/df1_A"][[0, 2]] = 99
    table = read_cryosparc(main, passthrough=[save(tmp_path / "other.cs", fields)])
    assert_is_whole(table)
    (warning,) = warnings_of(table)
    assert "ctf/df1_A differs between main.cs and other.cs in 2 of 6 rows" in warning


def test_equal_nan_values_do_not_differ(tmp_path: Path) -> None:
    """NaN in both files is one value, so no difference is told; NaN itself is a problem."""
    fields = whole()
    fields["ctf/df1_A"][2] = np.nan
    main = save(tmp_path / "main.cs", fields)
    table = read_cryosparc(main, passthrough=[save(tmp_path / "other.cs", fields)])
    assert warnings_of(table) == []
    assert len(table.problems) == 1


def test_several_passthrough_files_add_up(tmp_path: Path) -> None:
    """Each file contributes the fields that the ones before it lack."""
    fields = whole()
    main = save(tmp_path / "a.cs", without(fields, "ctf"))
    first = save(tmp_path / "b.cs", rows_of(without(fields, "blob", "ctf/df"), [2, 1, 0, 5, 4, 3]))
    second = save(tmp_path / "c.cs", rows_of(without(fields, "blob"), [5, 3, 4, 0, 2, 1]))
    table = read_cryosparc(main, passthrough=[first, second])
    assert_is_whole(table)
    assert warnings_of(table) == []
    assert table.metadata_files == (str(main), str(first), str(second))


# The passthrough file beside it


def test_single_fitting_passthrough_is_found(tmp_path: Path) -> None:
    """Exactly one file beside it that has what is missing is used, with a warning naming it."""
    main, other = split_in_two(tmp_path, [7, 3, 1, 6, 0, 5, 2, 4])
    save(tmp_path / "P1_J3_passthrough_particles.cs", {"uid": uids(), **ctf_fields()} | {})
    (tmp_path / "P1_J3_passthrough_particles.cs").write_bytes(b"\x95CSDAT")
    save(tmp_path / "P1_J4_passthrough_particles.cs", {"uid": uids(3), **ctf_fields(3)})
    save(tmp_path / "P1_J5_passthrough_particles.cs", {"uid": uids(), "location/x": uids()})
    table = read_cryosparc(main)
    assert_is_whole(table)
    (warning,) = warnings_of(table)
    assert other.name in warning
    assert "ctf/df1_A" in warning


def test_several_fitting_passthrough_files_are_listed(tmp_path: Path) -> None:
    """No choice is made between files that both fit."""
    main, _ = split_in_two(tmp_path, range(N_ROWS))
    save(tmp_path / "P1_J9_passthrough_particles.cs", {"uid": uids(), **ctf_fields()})
    with pytest.raises(MetadataError, match="2 files beside it") as caught:
        read_cryosparc(main)
    assert "P1_J2_passthrough_particles.cs" in str(caught.value)
    assert "P1_J9_passthrough_particles.cs" in str(caught.value)


def test_passthrough_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """Where none fits, the problem says why not and what to pass."""
    main, _ = split_in_two(tmp_path, [0, 1])
    save(tmp_path / "P1_J9_passthrough_particles.cs", {"uid": uids(), "location/x": uids()})
    text = "\n".join(map(str, read_cryosparc(main).problems))
    assert "missing: ctf/df1_A" in text
    assert "4 of 6 uids of main.cs are not in P1_J2_passthrough_particles.cs" in text
    assert "P1_J9_passthrough_particles.cs lacks ctf/df1_A" in text


def test_nothing_is_searched_where_nothing_is_missing(tmp_path: Path) -> None:
    """A whole file is read alone, whatever lies beside it."""
    path = save(tmp_path / "a.cs", whole())
    save(tmp_path / "passthrough.cs", {"uid": uids(), **ctf_fields()})
    table = read_cryosparc(path)
    assert table.notices == ()
    assert table.metadata_files == (str(path),)


# Result groups


def write_group(
    folder: Path, metafiles: Mapping[str, str], *, n_items: int | None = N_ROWS
) -> Path:
    """Write a .csg file."""
    results = {
        group: {"metafile": metafile, "num_items": n_items, "type": f"particle.{group}"}
        for group, metafile in metafiles.items()
    }
    path = folder / "P1_J2_particles.csg"
    path.write_text(yaml.safe_dump({"group": {"name": "particles"}, "results": results}))
    return path


def test_group_takes_each_result_from_its_file(tmp_path: Path) -> None:
    """Rows follow the file that is no passthrough; a stale copy of a field elsewhere is unused."""
    stale = ctf_fields() | {"ctf/df1_A": np.full(N_ROWS, 1e5)}
    through = rows_of({"uid": uids(), **blob_fields(), **stale}, [4, 2, 0, 1, 3, 5])
    save(tmp_path / "P1_J2_passthrough_particles.cs", through)
    main = save(tmp_path / "cryosparc_P1_J2_005_particles.cs", {"uid": uids(), **ctf_fields()})
    names = {
        "alignments_class_7": ">absent_passthrough.cs",
        "blob": ">P1_J2_passthrough_particles.cs",
        "ctf": ">cryosparc_P1_J2_005_particles.cs",
    }
    table = read_cryosparc(path := write_group(tmp_path, names))
    assert_is_whole(table)
    assert warnings_of(table) == []
    assert table.metadata_files[0] == str(main)
    assert table.metadata_files[-1] == str(path)
    assert len(table.metadata_files) == 3


def test_group_of_one_passthrough_file_is_read(tmp_path: Path) -> None:
    """Where every file is a passthrough file, the first gives the order."""
    save(tmp_path / "x_passthrough.cs", whole())
    names = {"blob": ">x_passthrough.cs", "ctf": ">x_passthrough.cs"}
    assert_is_whole(read_cryosparc(write_group(tmp_path, names)))


def test_group_with_a_wrong_count_is_refused(tmp_path: Path) -> None:
    """The error gives the group, both counts and the file."""
    save(tmp_path / "x.cs", whole())
    path = write_group(tmp_path, {"blob": ">x.cs", "ctf": ">x.cs"}, n_items=7)
    with pytest.raises(MetadataError, match="'blob' should have 7 items, but x\\.cs has 6 rows"):
        read_cryosparc(path)


def test_all_missing_files_of_a_group_are_named(tmp_path: Path) -> None:
    """One error lists every metafile that is not there."""
    path = write_group(tmp_path, {"blob": ">x_passthrough.cs", "ctf": ">y.cs"})
    with pytest.raises(MissingFileError) as caught:
        read_cryosparc(path)
    assert len(caught.value.problems) == 2
    assert "x_passthrough.cs" in str(caught.value)
    assert "y.cs" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1\nb: }", "not a YAML file"),
        (b"\x00\x01\xff\xfe", "not a YAML file"),
        (b"created: 2021-13-45 00:00:00\n", "not a YAML file"),
        (b"just a line", "lists no results"),
        (b"results: {}", "lists no results"),
        (b"", "lists no results"),
        (b"results: {blob: {num_items: 3}}", "names no metafile"),
        (b"results: {blob: 3}", "names no metafile"),
        (b"\x93NUMPY\x01\x00", "named .csg"),
        (b"!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_broken_groups_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Each kind of broken group file has an error that names it."""
    path = tmp_path / "a.csg"
    path.write_bytes(content)
    with pytest.raises(MetadataError, match=words) as caught:
        read_cryosparc(path)
    assert str(path) in str(caught.value)


# Job directories


def write_stack(path: Path, n_images: int, box_px: int = 8) -> Path:
    """Write a stack of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(n_images).normal(size=(n_images, box_px, box_px))
    with mrcfile.new(path, overwrite=True) as stream:
        stream.set_data(pixels.astype(np.float32))
        stream.set_image_stack()
    return path


def job_rows(n: int = N_ROWS) -> Fields:
    """Fields of a passthrough file with a CTF, and images it does not speak of."""
    return {"uid": uids(n), **without(blob_fields(n), "blob/path", "blob/idx"), **ctf_fields(n)}


def write_job(
    project: Path, sizes: Sequence[int] = (3, 1, 2), *, folder: str = "restack", rows: Any = None
) -> Path:
    """Write job 4 and return its folder."""
    suffix = {"restack": "restacked", "downsample": "downsample"}[folder]
    for number, size in enumerate(sizes):
        write_stack(project / "J4" / folder / f"batch_{number:06d}_{suffix}.mrc", size)
    save(project / "J4" / "J4_passthrough_particles.cs", job_rows() if rows is None else rows)
    return project / "J4"


@pytest.mark.parametrize("folder", ["restack", "downsample"])
def test_job_rows_apply_to_its_stacks_in_sequence(tmp_path: Path, folder: str) -> None:
    """Row 0 is the first image of batch 0, and so on through all stacks."""
    job = write_job(tmp_path, folder=folder)
    table = read_job(tmp_path, 4)
    assert table.kind == "job"
    assert table.problems == ()
    assert [Path(name).parent for name in table.image_files] == [job / folder] * 3
    assert [Path(name).name[:12] for name in table.image_files] == [
        "batch_000000",
        "batch_000001",
        "batch_000002",
    ]
    assert table.image_file_index.tolist() == [0, 0, 0, 1, 2, 2]
    assert table.image_index.tolist() == [0, 1, 2, 0, 0, 1]
    np.testing.assert_array_equal(table.defocus_u_A, job_rows()["ctf/df1_A"])
    np.testing.assert_array_equal(table.pixel_size_A, np.full(N_ROWS, 1.5))
    assert table.contrast_sign is not None
    assert table.contrast_sign.tolist() == [-1, 1, -1, 1, -1, 1]
    assert table.metadata_files == (str(job / "J4_passthrough_particles.cs"),)


def test_job_ignores_what_rows_say_of_files(tmp_path: Path) -> None:
    """Paths, indices and shapes of earlier jobs in the rows do not count."""
    rows = job_rows() | blob_fields()
    rows["blob/idx"] = rows["blob/idx"][::-1]
    write_job(tmp_path, rows=rows)
    table = read_job(tmp_path, 4)
    assert table.image_index.tolist() == [0, 1, 2, 0, 0, 1]
    assert all("restack" in name for name in table.image_files)
    assert table.box_px is None


def test_job_batches_are_ordered_by_number(tmp_path: Path) -> None:
    """Un-padded names count as numbers: 2 before 10."""
    for number in range(12):
        write_stack(tmp_path / "J4" / "downsample" / f"batch_{number}_downsample.mrc", number + 1)
    write_job(tmp_path, sizes=(), folder="downsample", rows=job_rows(78))
    table = read_job(tmp_path, 4)
    numbers = [int(Path(name).name.split("_")[1]) for name in table.image_files]
    assert numbers == list(range(12))
    np.testing.assert_array_equal(np.bincount(table.image_file_index), np.arange(1, 13))


def test_job_with_both_folders_uses_restack(tmp_path: Path) -> None:
    """Restack counts, with a warning that there was a choice."""
    write_job(tmp_path, sizes=(5, 5), folder="downsample")
    write_job(tmp_path)
    table = read_job(tmp_path, 4)
    assert [Path(name).parent.name for name in table.image_files] == ["restack"] * 3
    assert any("downsample" in w and "restack used" in w for w in warnings_of(table))


def test_job_with_one_number_twice_is_refused(tmp_path: Path) -> None:
    """Padded and un-padded names of one number are both named."""
    job = write_job(tmp_path)
    write_stack(job / "restack" / "batch_1_restacked.mrc", 1)
    with pytest.raises(MetadataError, match="2 stacks have the number 1") as caught:
        read_job(tmp_path, 4)
    assert "batch_1_restacked.mrc" in str(caught.value)
    assert "batch_000001_restacked.mrc" in str(caught.value)


@pytest.mark.parametrize(("removed", "after"), [(0, (1, 2)), (1, (2,))])
def test_job_with_a_gap_is_refused(tmp_path: Path, removed: int, after: tuple[int, ...]) -> None:
    """A missing number with later files there is an error naming what is missing and there."""
    job = write_job(tmp_path)
    (job / "restack" / f"batch_{removed:06d}_restacked.mrc").unlink()
    with pytest.raises(MetadataError, match=f"number {removed} is missing") as caught:
        read_job(tmp_path, 4)
    assert all(f"batch_{number:06d}_restacked.mrc" in str(caught.value) for number in after)


def test_job_with_other_counts_is_refused(tmp_path: Path) -> None:
    """Rows and images that differ are both given, with the images of each stack."""
    write_job(tmp_path, sizes=(3, 4))
    with pytest.raises(MetadataError, match="6 rows, but the 2 stacks") as caught:
        read_job(tmp_path, 4)
    assert "hold 7 images" in str(caught.value)
    assert "batch_000001_restacked.mrc: 4 images" in str(caught.value)


def test_job_names_all_unreadable_stacks(tmp_path: Path) -> None:
    """One error lists every stack whose header is broken."""
    job = write_job(tmp_path)
    for number in (0, 2):
        (job / "restack" / f"batch_{number:06d}_restacked.mrc").write_bytes(b"no header")
    with pytest.raises(StackError) as caught:
        read_job(tmp_path, 4)
    assert len(caught.value.problems) == 2


def test_absent_parts_of_a_job_are_named(tmp_path: Path) -> None:
    """No job folder, no passthrough file, no stacks: each error names what was looked for."""
    with pytest.raises(MissingFileError, match="J4"):
        read_job(tmp_path, 4)
    save(tmp_path / "J4" / "particles.cs", whole())
    with pytest.raises(MissingFileError, match="J4_passthrough_particles\\.cs") as caught:
        read_job(tmp_path, 4)
    assert "particles.cs" in caught.value.problems[0].remedy
    save(tmp_path / "J4" / "J4_passthrough_particles.cs", job_rows())
    with pytest.raises(MissingFileError, match="no folder restack or downsample"):
        read_job(tmp_path, 4)
    (tmp_path / "J4" / "restack").mkdir()
    with pytest.raises(MissingFileError, match="no batch_"):
        read_job(tmp_path, 4)


def test_old_name_of_the_passthrough_file_is_read(tmp_path: Path) -> None:
    """Versions that put the project first, P1_J4_…, are read too."""
    job = write_job(tmp_path)
    new = job / "J4_passthrough_particles.cs"
    old = new.rename(job / "P1_J4_passthrough_particles.cs")
    assert read_job(tmp_path, 4).metadata_files == (str(old),)


def test_job_takes_ctf_from_its_other_file(tmp_path: Path) -> None:
    """A passthrough file without a CTF is joined by uid with the one file that has it."""
    rows = {"uid": uids(), "location/exp_group_id": np.zeros(N_ROWS, dtype=np.uint32)}
    job = write_job(tmp_path, rows=rows)
    save(job / "J4_particles.cs", rows_of(whole(), [3, 1, 5, 4, 0, 2]))
    save(job / "J4_location.cs", rows)
    table = read_job(tmp_path, 4)
    assert table.problems == ()
    np.testing.assert_array_equal(table.defocus_u_A, job_rows()["ctf/df1_A"])
    np.testing.assert_array_equal(table.pixel_size_A, np.full(N_ROWS, 1.5))
    assert table.image_index.tolist() == [0, 1, 2, 0, 0, 1]
    assert any("J4_particles.cs" in notice.message for notice in table.notices)


def test_job_takes_the_last_iteration(tmp_path: Path) -> None:
    """Of several iterations the highest number counts, as a number, with a note."""
    job = write_job(tmp_path, rows={"uid": uids()})
    for iteration in ("002", "9", "010"):
        fields = whole() | {"ctf/df1_A": np.full(N_ROWS, 1000.0 * int(iteration))}
        save(job / f"cryosparc_P1_J4_{iteration}_particles.cs", fields)
    table = read_job(tmp_path, 4)
    assert table.defocus_u_A.tolist() == [1e4] * N_ROWS
    assert any("cryosparc_P1_J4_010_particles.cs" in notice.message for notice in table.notices)


def test_job_does_not_choose_between_unlike_files(tmp_path: Path) -> None:
    """Two files with a CTF that are no iterations of one job are both named."""
    job = write_job(tmp_path, rows={"uid": uids()})
    save(job / "a.cs", whole())
    save(job / "cryosparc_P1_J4_002_particles.cs", whole())
    with pytest.raises(MetadataError, match="2 files beside it") as caught:
        read_job(tmp_path, 4)
    assert "a.cs" in str(caught.value)


def test_job_without_ctf_is_a_problem(tmp_path: Path) -> None:
    """Where no file has the CTF, the problem names the fields and the files looked at."""
    job = write_job(tmp_path, rows={"uid": uids()})
    save(job / "other.cs", {"uid": uids(), "location/x": uids()})
    text = "\n".join(map(str, read_job(tmp_path, 4).problems))
    assert "missing: ctf/df1_A" in text
    assert "other.cs lacks ctf/df1_A" in text


def test_job_takes_sign_and_pixel_size_from_its_other_file(tmp_path: Path) -> None:
    """A passthrough file with only a CTF gets them from the one file that has them."""
    job = write_job(tmp_path, rows={"uid": uids(), **ctf_fields()})
    save(job / "J4_particles.cs", rows_of({"uid": uids(), **blob_fields()}, [5, 4, 3, 2, 1, 0]))
    table = read_job(tmp_path, 4)
    assert table.contrast_sign is not None
    assert table.contrast_sign.tolist() == [-1, 1, -1, 1, -1, 1]
    assert table.pixel_size_source == "blob/psize_A"
    save(job / "another.cs", {"uid": uids(), **blob_fields()})
    unsure = read_job(tmp_path, 4)
    assert unsure.contrast_sign is None
    assert any("another.cs" in w and "none is used" in w for w in warnings_of(unsure))


# Files that other programs wrote


def test_real_exported_set(shared_data: Path) -> None:
    """An exported set: 22 rows, paths with '>', dark contrast."""
    table = read_cryosparc(shared_data / "real" / "cryodrgn" / "cryosparc_J2_particles_exported.cs")
    assert table.problems == ()
    assert len(table) == 22
    assert all(name.startswith(">J1/imported/") for name in table.image_files)
    assert table.contrast_sign is not None
    assert set(table.contrast_sign) == {-1.0}
    assert table.uid is not None
    assert table.uid[0] == np.uint64(2714306824294111763)
    assert table.defocus_u_A[0] == pytest.approx(16412.178)
    assert warnings_of(table) == []


def test_real_refined_set(shared_data: Path) -> None:
    """A refinement's set: 2,019 rows in 50 stacks at 2.95 Å and 200 kV."""
    table = read_cryosparc(shared_data / "real" / "cryodrgn" / "cryosparc_P12_J24_001_particles.cs")
    assert table.problems == ()
    assert len(table) == 2019
    assert len(table.image_files) == 50
    assert set(table.pixel_size_A) == {float(np.float32(2.95))}
    assert set(table.voltage_kV) == {200.0}
    assert table.image_index.min() == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("git_lfs_pointer.cs", "git lfs pull"),
        ("zero_byte.cs", "0 bytes"),
        ("zero_rows.cs", "0 particles"),
        ("P9_J209_particles.csg", "there is no such file"),
    ],
)
def test_real_odd_files(shared_data: Path, name: str, words: str) -> None:
    """Files that cannot be used say why."""
    with pytest.raises(CryoLikeError, match=words):
        read_cryosparc(shared_data / "real" / "odd-cs" / name)
