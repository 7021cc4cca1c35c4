"""STAR files: structure, values, optics groups, and what is said about broken ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryolike.errors import MetadataError, MissingFileError, raise_problems
from cryolike.io import star_blocks
from cryolike.io.star import read_star, read_star_without_names
from cryolike.io.star_blocks import StarBlock, read_star_blocks
from cryolike.particles import ParticleTable

Columns = Mapping[str, Sequence[object]]
Write = Callable[..., Path]
Reader = Callable[..., ParticleTable]

OPTICS: Columns = {
    "rlnOpticsGroup": [1, 2],
    "rlnVoltage": ["300.000000", "200.000000"],
    "rlnSphericalAberration": [2.7, 1.4],
    "rlnAmplitudeContrast": [0.1, 0.07],
    "rlnImagePixelSize": [1.25, 2.5],
    "rlnImageSize": [64, 32],
}
PARTICLES: Columns = {
    "rlnImageName": ["000002@Extract/a.mrcs", "1@b.mrcs", "000001@Extract/a.mrcs", "30@b.mrcs"],
    "rlnDefocusU": [15000.5, 16000, 17000, 18000],
    "rlnDefocusV": [14000.25, 15000, 16000, 17000],
    "rlnDefocusAngle": [0, 45, -90, 180],
    "rlnOpticsGroup": [2, 1, 1, 2],
}
SINGLE: Columns = {
    **{label: values for label, values in PARTICLES.items() if label != "rlnOpticsGroup"},
    "rlnVoltage": [300, 300, 200, 200],
    "rlnSphericalAberration": [2.7, 2.7, 1.4, 1.4],
}
"""One table with all it needs, as RELION 3.0 wrote it."""


def loop(name: str, columns: Columns, labels: Sequence[str] | None = None) -> str:
    """Text of a table; `labels` replaces the lines of labels."""
    if labels is None:
        labels = [f"_{label} #{i}" for i, label in enumerate(columns, 1)]
    rows = [" ".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    return "\n".join([f"data_{name}", "", "loop_", *labels, *rows, "", ""])


def two_tables(particles: Columns = PARTICLES, optics: Columns = OPTICS) -> str:
    """Text of a file with optics groups."""
    return loop("optics", optics) + "\n" + loop("particles", particles)


def repeated(n: int, **columns: Sequence[object]) -> dict[str, Sequence[object]]:
    """Columns of a single table of n rows, `columns` among them."""
    return {
        "rlnImageName": [f"{i + 1}@a.mrcs" for i in range(n)],
        "rlnDefocusU": [15000] * n,
        "rlnDefocusV": [14000] * n,
        "rlnDefocusAngle": [10] * n,
        "rlnVoltage": [300] * n,
        "rlnSphericalAberration": [2.7] * n,
        **columns,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a STAR file and give its path."""

    def make(text: str | bytes, name: str = "p.star") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make


def messages(table: ParticleTable, level: str = "warning") -> str:
    """Join the notices of a level."""
    return "\n".join(str(notice) for notice in table.notices if notice.level == level)


def said(table: ParticleTable) -> str:
    """Join the problems."""
    return "\n".join(map(str, table.problems))


def all_values(block: StarBlock) -> dict[str, np.ndarray]:
    """Read every column of a block as text."""
    columns = range(len(block.labels))
    pieces = list(block.read([], columns))
    return {
        label.removeprefix("_"): np.concatenate([piece[i] for piece in pieces])
        for i, label in enumerate(block.labels)
    }


def assert_same_as_starfile(path: Path) -> None:
    """Compare every value of every block with what the starfile library reads."""
    expected = starfile.read(path, always_dict=True)
    blocks = {block.name: block for block in read_star_blocks(path)}
    assert list(blocks) == list(expected)
    for name, block in blocks.items():
        frame = expected[name]
        if isinstance(frame, dict):
            frame = pd.DataFrame({label: [value] for label, value in frame.items()})
        values = all_values(block)
        assert list(values) == list(frame.columns)
        assert block.n_rows == len(frame)
        assert block.faults == ()
        for i, label in enumerate(frame.columns):
            if frame[label].dtype.kind in "iuf":
                numbers = np.concatenate([piece[i] for piece in block.read([i], [])])
                np.testing.assert_allclose(numbers, frame[label].to_numpy(), rtol=1e-15)
            else:
                assert values[label].tolist() == frame[label].tolist()


# --- values ---


def test_values_are_joined_and_converted(write: Write) -> None:
    """Each row gets its own group's optics, radians, Å, and the image counted from 0."""
    particles = {
        **PARTICLES,
        "rlnPhaseShift": [0, 90, 180, 45],
        "rlnAngleRot": [0, 180, -90, 30],
        "rlnAngleTilt": [90, 0, 45, 60],
        "rlnAnglePsi": [-180, 1, 2, 3],
        "rlnOriginXAngst": [1.5, -2, 0, 4],
        "rlnOriginYAngst": [0.5, 1, 2, 3],
        "rlnClassNumber": [3, 1, 2, 3],
        "rlnCtfBfactor": [10, 20, 30, 40],
        "rlnCtfScalefactor": [1, 0.5, 0.25, 1],
    }
    path = write(two_tables(particles))
    table = read_star(path)
    assert table.kind == "star"
    assert table.problems == ()
    assert messages(table) == ""
    assert table.metadata_files == (str(path),)
    assert table.image_files == ("Extract/a.mrcs", "b.mrcs")
    np.testing.assert_array_equal(table.image_file_index, [0, 1, 0, 1])
    np.testing.assert_array_equal(table.image_index, [1, 0, 0, 29])
    np.testing.assert_array_equal(table.source_row, [0, 1, 2, 3])
    np.testing.assert_array_equal(table.defocus_u_A, [15000.5, 16000, 17000, 18000])
    np.testing.assert_array_equal(table.defocus_v_A, [14000.25, 15000, 16000, 17000])
    np.testing.assert_allclose(table.defocus_angle_rad, [0, np.pi / 4, -np.pi / 2, np.pi])
    np.testing.assert_allclose(table.phase_shift_rad, [0, np.pi / 2, np.pi, np.pi / 4])
    np.testing.assert_array_equal(table.voltage_kV, [200, 300, 300, 200])
    np.testing.assert_array_equal(table.spherical_aberration_mm, [1.4, 2.7, 2.7, 1.4])
    np.testing.assert_array_equal(table.amplitude_contrast, [0.07, 0.1, 0.1, 0.07])
    np.testing.assert_array_equal(table.ctf_bfactor_A2, [10, 20, 30, 40])
    np.testing.assert_array_equal(table.ctf_scale, [1, 0.5, 0.25, 1])
    np.testing.assert_array_equal(table.pixel_size_A, [2.5, 1.25, 1.25, 2.5])
    assert table.pixel_size_source == "rlnImagePixelSize"
    for column, degrees in (
        (table.rot_rad, [0, 180, -90, 30]),
        (table.tilt_rad, [90, 0, 45, 60]),
        (table.psi_rad, [-180, 1, 2, 3]),
    ):
        assert column is not None
        np.testing.assert_allclose(column, np.deg2rad(degrees))
    np.testing.assert_array_equal(np.asarray(table.origin_x_A), [1.5, -2, 0, 4])
    np.testing.assert_array_equal(np.asarray(table.origin_y_A), [0.5, 1, 2, 3])
    np.testing.assert_array_equal(np.asarray(table.class_label), ["3", "1", "2", "3"])
    np.testing.assert_array_equal(np.asarray(table.optics_group), ["2", "1", "1", "2"])
    np.testing.assert_array_equal(np.asarray(table.box_px), [32, 64, 64, 32])


def test_reader_arguments_read_the_same_again(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored arguments read the same table, also from another working directory."""
    path = write(two_tables())
    monkeypatch.chdir(path.parent)
    table = read_star(path.name)
    monkeypatch.chdir("/")
    again = read_star(**table.reader_arguments)
    np.testing.assert_array_equal(again.defocus_u_A, table.defocus_u_A)


def test_defaults_are_said(write: Write) -> None:
    """Phase shift 0, amplitude contrast 0.1, B-factor 0 and scale 1 stand in, with warnings."""
    table = read_star(write(loop("", SINGLE)))
    np.testing.assert_array_equal(table.phase_shift_rad, np.zeros(4))
    np.testing.assert_array_equal(table.amplitude_contrast, np.full(4, 0.1))
    np.testing.assert_array_equal(table.ctf_bfactor_A2, np.zeros(4))
    np.testing.assert_array_equal(table.ctf_scale, np.ones(4))
    assert "rlnAmplitudeContrast is missing: 0.1 used for all 4 rows." in messages(table)
    assert table.rot_rad is None
    assert np.isnan(table.pixel_size_A).all()


@pytest.mark.parametrize("prefix", ["_rln", "__rln", "_"])
def test_label_prefixes(write: Write, prefix: str) -> None:
    """Labels with `rln`, `_rln` or no prefix read the same."""
    text = two_tables().replace("\n_rln", f"\n{prefix}")
    table = read_star(write(text))
    assert table.problems == ()
    np.testing.assert_array_equal(table.voltage_kV, [200, 300, 300, 200])


@pytest.mark.parametrize(
    "labels",
    [
        ["_rlnImageName #4", "_rlnDefocusU #1", "_rlnDefocusV", "_rlnDefocusAngle #9"],
        ["_rlnImageName #1 [a comment]", "_rlnDefocusU\t#2", " _rlnDefocusV", "_rlnDefocusAngle"],
    ],
    ids=["wrong numbers", "comments and blanks"],
)
def test_column_numbers_do_not_count(write: Write, labels: list[str]) -> None:
    """Columns follow the order of the labels, whatever stands behind '#'."""
    columns = {**SINGLE}
    table = read_star(
        write(loop("", columns, [*labels, "_rlnVoltage #5", "_rlnSphericalAberration #6"]))
    )
    np.testing.assert_array_equal(table.defocus_v_A, [14000.25, 15000, 16000, 17000])
    assert table.problems == ()


def variants() -> dict[str, bytes]:
    """Give the same two tables as different programs lay them out."""
    plain = two_tables()
    optics, particles = loop("optics", OPTICS), loop("particles", PARTICLES)
    general = "data_general\n\n_rlnTomoSubTomosAre2DStacks_not 1\n_version 5\n\n"
    quoted = (
        particles.replace("1@b.mrcs", '"1@b.mrcs"')
        .replace("30@", "'30@")
        .replace("b.mrcs 18000", "b.mrcs' 18000")
    )
    commented = particles.replace("1@b.mrcs", "# a comment\n1@b.mrcs").replace(
        "45 1\n", "45 1 # after a row\n\n"
    )
    return {
        "plain": plain.encode(),
        "CRLF": plain.replace("\n", "\r\n").encode(),
        "lone CR in a body": plain.replace("45 1\n", "45 1 \r \n").encode(),
        "optics last": (particles + optics).encode(),
        "with a general block": (general + plain).encode(),
        "no last line end": plain.rstrip().encode(),
        "byte-order mark": b"\xef\xbb\xbf" + plain.encode(),
        "tabs": plain.replace(" ", "\t").encode(),
        "blanks around rows": plain.replace("\n", "  \n  ").encode(),
        "header without blank lines": plain.replace("\n\n", "\n").encode(),
        "version comments": ("# version 50001\n" + plain).replace("\n\n", "\n# v\n\n").encode(),
        "quotes": (optics + quoted).encode(),
        "comments in rows": (optics + commented).encode(),
        "blank lines in rows": (optics + particles.replace("45 1\n", "45 1\n\n \n")).encode(),
        "groups as floats": plain.replace("45 1\n", "45 1.000000\n").encode(),
    }


@pytest.mark.parametrize("layout", variants())
@pytest.mark.parametrize("pieces", [None, (64, 2), (1, 1)])
def test_layouts_read_the_same(
    write: Write, layout: str, pieces: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line ends, order of blocks, quotes, comments and the size of pieces change nothing."""
    if pieces is not None:
        monkeypatch.setattr(star_blocks, "_CHUNK_BYTES", pieces[0])
        monkeypatch.setattr(star_blocks, "_CHUNK_ROWS", pieces[1])
    table = read_star(write(variants()[layout]))
    assert table.problems == ()
    assert table.image_files == ("Extract/a.mrcs", "b.mrcs")
    np.testing.assert_array_equal(table.image_index, [1, 0, 0, 29])
    np.testing.assert_array_equal(table.defocus_u_A, [15000.5, 16000, 17000, 18000])
    np.testing.assert_array_equal(table.voltage_kV, [200, 300, 300, 200])
    np.testing.assert_array_equal(np.asarray(table.optics_group), ["2", "1", "1", "2"])
    ignored = "data_general" if "general" in layout else ""
    assert ignored in messages(table, "note")


@pytest.mark.parametrize("pieces", [None, (1, 1)])
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("{}\n{}\n", (9, 10)),
        ("\n{}\n\n  \n{}", (10, 13)),
        ("{}\r\n\r\n{}\r\n", (9, 11)),
        ("# c\n{} # c\n#c\n'x' 1 1 1\n", (10, 12)),
    ],
)
def test_rows_know_their_lines(
    write: Write,
    body: str,
    lines: tuple[int, int],
    pieces: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages count lines from 1 and rows from 0, past blank lines and comments."""
    if pieces is not None:
        monkeypatch.setattr(star_blocks, "_CHUNK_BYTES", pieces[0])
    head = "\n\ndata_\nloop_\n_rlnImageName\n_a\n_b\n_c\n"
    row = "x 1 1 1"
    block = read_star_blocks(write(head + body.format(row, row)))[0]
    assert [block.row_line(i) for i in range(block.n_rows)] == list(lines)
    assert [block.value(i, 0) for i in range(block.n_rows)] == ["x", "x"]
    assert (block.line, block.labels[0]) == (3, "_rlnImageName")


def test_table_of_empty_values(write: Write) -> None:
    """Quoted empty values are values, also where a row has nothing else."""
    (block,) = read_star_blocks(write("data_\nloop_\n_rlnMtfFileName\n\"\"\n''\n"))
    assert block.n_rows == 2
    assert all_values(block)["rlnMtfFileName"].tolist() == ["", ""]


def test_simple_block_is_one_row(write: Write) -> None:
    """Values beside their labels, without loop_, are a table of one row."""
    values = {label: column[0] for label, column in SINGLE.items()}
    text = "data_particles\n\n" + "".join(f"_{k}   {v} # why\n" for k, v in values.items())
    table = read_star(write(text.replace("000002@Extract/a.mrcs", '"2@my stack.mrcs"')))
    assert table.image_files == ("my stack.mrcs",)
    assert table.image_index.tolist() == [1]
    assert table.voltage_kV.tolist() == [300]
    assert table.problems == ()


def test_file_names_keep_their_bytes(write: Write) -> None:
    """Names with spaces, UTF-8 or bytes that are no text at all name the same file again."""
    names = [b'"1@a b.mrcs"', "1@µ/é.mrcs".encode(), b"1@\xff\xfe.mrcs", b"1@it's#1.mrcs"]
    text = loop("", SINGLE).encode()
    for old, new in zip(PARTICLES["rlnImageName"], names, strict=True):
        text = text.replace(str(old).encode(), new)
    table = read_star(write(text))
    assert [os.fsencode(name) for name in table.image_files] == [
        b"a b.mrcs",
        "µ/é.mrcs".encode(),
        b"\xff\xfe.mrcs",
        b"it's#1.mrcs",
    ]


@pytest.mark.parametrize(
    ("name", "stack", "index"),
    [
        ("1@a.mrcs", "a.mrcs", 0),
        ("000012@J1/x@y.mrcs", "J1/x@y.mrcs", 11),
        ("single.mrc", "single.mrc", -1),
        (r"3@C:\data\a.mrcs", r"C:\data\a.mrcs", 2),
        ("1@>J3/a.mrc", ">J3/a.mrc", 0),
    ],
)
def test_image_names(write: Write, name: str, stack: str, index: int) -> None:
    """A name is split at its first '@'; one without '@' has no number yet (-1)."""
    table = read_star(write(loop("", repeated(1, rlnImageName=[name]))))
    assert table.problems == ()
    assert table.image_files == (stack,)
    assert table.image_index.tolist() == [index]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0@a.mrcs", "has image number 0"),
        ("000000@a.mrcs", "has image number 0"),
        ("-1@a.mrcs", "not of the form NUMBER@STACK"),
        ("1.5@a.mrcs", "not of the form NUMBER@STACK"),
        ("x@a.mrcs", "not of the form NUMBER@STACK"),
        ("@a.mrcs", "not of the form NUMBER@STACK"),
        ("1@", "not of the form NUMBER@STACK"),
        ("²@a.mrcs", "not of the form NUMBER@STACK"),
        ("99999999999999999999@a.mrcs", "not of the form NUMBER@STACK"),
        ('""', "not of the form NUMBER@STACK"),
    ],
)
def test_bad_image_names(write: Write, name: str, message: str) -> None:
    """A name that cannot be read is a fault of its row, named with row, line and text."""
    names = ["1@a.mrcs", "2@a.mrcs", name]
    table = read_star(write(loop("", repeated(3, rlnImageName=names))))
    (problem,) = table.problems
    assert message in str(problem)
    assert problem.rows is not None
    assert problem.rows.tolist() == [2]
    shown = name.strip('"')
    assert f"row 2 (line 12): '{shown}'" in str(problem)


# --- optics groups ---


def test_groups_are_labels_not_positions(write: Write) -> None:
    """Unsorted, gapped groups and group 0 are found by label."""
    optics = {**OPTICS, "rlnOpticsGroup": [17, 0]}
    particles = {**PARTICLES, "rlnOpticsGroup": [0, 17, 17, "0.000"]}
    table = read_star(write(two_tables(particles, optics)))
    assert table.problems == ()
    np.testing.assert_array_equal(table.voltage_kV, [200, 300, 300, 200])


def test_undefined_groups_are_faults_of_their_rows(write: Write) -> None:
    """No row vanishes: those of an undefined group are listed, and only once."""
    particles = {**PARTICLES, "rlnOpticsGroup": [2, 7, 1, 7]}
    table = read_star(write(two_tables(particles)))
    assert len(table) == 4
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [1, 3]
    assert "optics group 7 is not in data_optics (2 of 4 rows)" in str(problem)
    assert "row 1 (line 23)" in str(problem)


def test_group_defined_twice(write: Write) -> None:
    """A group defined twice stops, naming both lines."""
    with pytest.raises(MetadataError, match="optics group 1 is defined 2 times") as error:
        read_star(write(two_tables(optics={**OPTICS, "rlnOpticsGroup": [1, "1.0"]})))
    assert "line 10" in str(error.value)
    assert "line 11" in str(error.value)


@pytest.mark.parametrize("lacking", ["particles", "optics"])
def test_no_group_column(write: Write, lacking: str) -> None:
    """Without rlnOpticsGroup, one group serves all rows with a warning; two are an error."""

    def tables(n_groups: int) -> str:
        optics = {label: values[:n_groups] for label, values in OPTICS.items()}
        particles = dict(PARTICLES) | {"rlnOpticsGroup": [1, 1, 1, 1]}
        del (particles if lacking == "particles" else optics)["rlnOpticsGroup"]
        return two_tables(particles, optics)

    table = read_star(write(tables(1)))
    np.testing.assert_array_equal(table.voltage_kV, [300] * 4)
    assert f"data_{lacking}" in messages(table)
    assert "the only optics group is used for all rows" in messages(table)
    with pytest.raises(MetadataError, match=f"data_{lacking} .* has no rlnOpticsGroup"):
        read_star(write(tables(2)))


def test_particle_value_wins(write: Write) -> None:
    """A field of both tables: the particle's value counts, and the difference is noted."""
    particles = {**PARTICLES, "rlnVoltage": [200, 300, 120, 200]}
    table = read_star(write(two_tables(particles)))
    np.testing.assert_array_equal(table.voltage_kV, [200, 300, 120, 200])
    assert "rlnVoltage differs between particles and optics groups in 1 of 4 rows" in messages(
        table, "note"
    )


def test_text_in_the_optics_table(write: Write) -> None:
    """A value that is no number in the optics table names particles and the optics line."""
    table = read_star(write(two_tables(optics={**OPTICS, "rlnVoltage": ["abc", 200]})))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [1, 2]
    assert "row 1 (line 23): 'abc' (data_optics, line 10)" in str(problem)


# --- pixel size, origins, angles, ignored physics ---


@pytest.mark.parametrize(
    ("columns", "expected", "source", "warning"),
    [
        ({"rlnImagePixelSize": 1.5, "rlnPixelSize": 2, "rlnMicrographPixelSize": 3}, 1.5,
         "rlnImagePixelSize", ""),
        ({"rlnPixelSize": 2, "rlnDetectorPixelSize": 5, "rlnMagnification": 50000}, 2,
         "rlnPixelSize", ""),
        ({"rlnDetectorPixelSize": 5, "rlnMagnification": 50000, "rlnMicrographPixelSize": 3}, 1,
         "10000·rlnDetectorPixelSize/rlnMagnification", ""),
        ({"rlnMicrographPixelSize": 3, "rlnMicrographOriginalPixelSize": 4}, 3,
         "rlnMicrographPixelSize", "wrong if the particles were rescaled"),
        ({"rlnMicrographOriginalPixelSize": 4, "rlnMagnification": 50000}, 4,
         "rlnMicrographOriginalPixelSize", "wrong if the particles were rescaled"),
        ({}, np.nan, "", ""),
    ],
)  # fmt: skip
def test_pixel_size(
    write: Write, columns: dict[str, float], expected: float, source: str, warning: str
) -> None:
    """The best field there is gives the pixel size, and is named."""
    path = write(loop("", repeated(2, **{k: [v, v] for k, v in columns.items()})))
    table = read_star(path)
    np.testing.assert_allclose(table.pixel_size_A, [expected] * 2)
    assert table.pixel_size_source == source
    assert warning in messages(table)
    assert ("rescaled" in messages(table)) == bool(warning)


def test_zero_magnification(write: Write) -> None:
    """A pixel size that cannot be computed is a fault that shows both numbers."""
    columns: Columns = {"rlnDetectorPixelSize": [5, 5], "rlnMagnification": [50000, 0]}
    table = read_star(write(loop("", repeated(2, **columns))))
    assert "row 1 (line 13): '5' / '0'" in said(table)


def test_origins_in_pixels(write: Write) -> None:
    """Old origins are multiplied by the pixel size, or left out with a warning."""
    columns: Columns = {"rlnOriginX": [1, -2], "rlnOriginY": [3, 0.5]}
    table = read_star(write(loop("", repeated(2, **columns, rlnImagePixelSize=[2, 4]))))
    np.testing.assert_array_equal(np.asarray(table.origin_x_A), [2, -8])
    np.testing.assert_array_equal(np.asarray(table.origin_y_A), [6, 2])
    table = read_star(write(loop("", repeated(2, **columns))))
    assert table.origin_x_A is None
    assert "rlnOriginX is in pixels, and the file gives no pixel size" in messages(table)


@pytest.mark.parametrize(
    ("label", "values", "doubt"),
    [
        ("rlnPhaseShift", np.linspace(0.5, 3.1, 10), True),
        ("rlnPhaseShift", np.linspace(0.5, 3.1, 9), False),
        ("rlnPhaseShift", np.linspace(0.5, 90, 10), False),
        ("rlnPhaseShift", np.linspace(0.0, 3.1, 10), False),
        ("rlnPhaseShift", np.full(10, 1.0), False),
        ("rlnPhaseShift", np.full(10, 1.57), True),
        ("rlnDefocusAngle", np.linspace(-3.1, 3.1, 20), True),
        ("rlnDefocusAngle", np.linspace(-3.1, 3.1, 19), False),
        ("rlnDefocusAngle", np.linspace(-90, 90, 20), False),
        ("rlnDefocusAngle", np.zeros(20), False),
    ],
)
def test_degrees_that_look_like_radians(
    write: Write, label: str, values: np.ndarray, doubt: bool
) -> None:
    """Many small angles are doubted but still read as degrees."""
    path = write(loop("", repeated(len(values), **{label: values.tolist()})))
    table = read_star(path)
    assert (f"{label}, " in messages(table) and "look like radians" in messages(table)) == doubt
    read = table.phase_shift_rad if label == "rlnPhaseShift" else table.defocus_angle_rad
    np.testing.assert_allclose(read, np.deg2rad(values))


def test_radians_on_request(write: Write) -> None:
    """Paired files may give radians; values beyond 4π are doubted."""
    path = write(loop("", repeated(2, rlnDefocusAngle=[1, 2], rlnPhaseShift=[0.5, 20])))
    table = read_star_without_names(
        path, defocus_angle_is_degree=False, phase_shift_is_degree=False
    )
    np.testing.assert_array_equal(table.defocus_angle_rad, [1, 2])
    np.testing.assert_array_equal(table.phase_shift_rad, [0.5, 20])
    assert "rlnPhaseShift, 0.5 to 20, look like degrees" in messages(table)
    assert "rlnDefocusAngle" not in messages(table)
    table = read_star_without_names(path, phase_shift_is_degree=False)
    np.testing.assert_allclose(table.defocus_angle_rad, np.deg2rad([1, 2]))


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"rlnBeamTiltX": [0.3, 0], "rlnBeamTiltY": [0.4, 0]}, "beam tilt, up to 0.5 mrad, in 1"),
        ({"rlnBeamTiltX": [0, 0], "rlnBeamTiltY": [0, 0]}, ""),
        ({"rlnOddZernike": ["[0,-1.5,1]", "[0,0,0]"]}, "coefficients up to 1.5, in 1 rows"),
        ({"rlnEvenZernike": ["[2e-1,0]", "[0.1,0]"]}, "coefficients up to 0.2, in 2 rows"),
        ({"rlnEvenZernike": ["[0,0]", "[0.0,0e0]"]}, ""),
        ({"rlnMagMat00": [1.01, 1], "rlnMagMat01": [0, 0], "rlnMagMat10": [0, 0],
          "rlnMagMat11": [1, 1]}, "(rlnMagMat), up to 1 %, in 1 rows"),
        ({"rlnMagMat00": [0, 1], "rlnMagMat01": [0, 0], "rlnMagMat10": [0, 0],
          "rlnMagMat11": [0, 1]}, "rlnMagMat is all zero in 1 rows: taken as the identity"),
        ({"rlnMagMat00": [1, 1], "rlnMagMat01": [0, 0], "rlnMagMat10": [0, 0],
          "rlnMagMat11": [1, 1]}, ""),
        ({"rlnImageSize": [64, 63.5]}, "rlnImageSize is no box size in 1 of 2 rows"),
    ],
)  # fmt: skip
def test_ignored_physics(write: Write, columns: Columns, warning: str) -> None:
    """What changes the physics and is ignored is said once, with its size; zeros are not."""
    plain = read_star(write(loop("", repeated(2)))).notices
    table = read_star(write(loop("", repeated(2, **columns))))
    assert table.problems == ()
    new = [str(notice) for notice in table.notices if notice not in plain]
    assert len(new) == bool(warning)
    assert warning in "".join(new)


@pytest.mark.parametrize("reader", [read_star, read_star_without_names])
@pytest.mark.parametrize("label", ["rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"])
def test_corrected_images_are_refused(write: Write, reader: Reader, label: str) -> None:
    """CTF-corrected images are a fault of their rows unless accepted; a flag of 0 is none."""
    optics = {**OPTICS, label: [0, 1]}
    path = write(two_tables(optics=optics))
    (problem,) = reader(path).problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [0, 3]
    assert label in str(problem)
    assert "accept_ctf_applied" in str(problem)
    table = reader(path, accept_ctf_applied=True)
    assert table.problems == ()
    assert f"2 of 4 rows are {'CTF' if 'Pre' in label else 'phase'}" in messages(table)
    assert reader(write(two_tables(optics={**OPTICS, label: [0, "0.0"]}))).problems == ()


# --- paired files ---


def test_paired_ignores_names_poses_and_pixel_size(write: Write) -> None:
    """Rows apply in sequence: names, poses and every pixel-size field are as if absent."""
    columns = repeated(
        3,
        rlnImageName=["x@y", "0@a", "7@a"],
        rlnAngleRot=[1, 2, 3],
        rlnAngleTilt=["x", 2, 3],
        rlnAnglePsi=[1, 2, 3],
        rlnOriginXAngst=[1, 2, 3],
        rlnOriginY=[1, 2, 3],
        rlnImagePixelSize=[1, 2, "bad"],
        rlnDetectorPixelSize=[5, 5, 5],
        rlnMagnification=[0, 0, 0],
        rlnMicrographPixelSize=[1, 1, 1],
        rlnClassNumber=[1, 2, 2],
    )
    table = read_star_without_names(write(loop("images", columns)))
    assert table.kind == "paired"
    assert table.problems == ()
    assert table.image_files == ("",)
    assert table.image_index.tolist() == [0, 1, 2]
    assert table.image_file_index.tolist() == [0, 0, 0]
    assert np.isnan(table.pixel_size_A).all()
    assert table.pixel_size_source == ""
    for pose in (table.rot_rad, table.tilt_rad, table.psi_rad, table.origin_x_A, table.origin_y_A):
        assert pose is None
    assert "PixelSize" not in messages(table)
    assert np.asarray(table.class_label).tolist() == ["1", "2", "2"]


def test_paired_needs_no_names(write: Write) -> None:
    """A table with CTF columns and nothing else is enough, with or without optics groups."""
    columns = {label.removeprefix("rln"): values for label, values in SINGLE.items()}
    del columns["ImageName"]
    table = read_star_without_names(write(loop("anything", columns)))
    assert len(table) == 4
    assert table.problems == ()
    without = {label: values for label, values in PARTICLES.items() if label != "rlnImageName"}
    table = read_star_without_names(write(two_tables(without)))
    np.testing.assert_array_equal(table.voltage_kV, [200, 300, 300, 200])


# --- faults of rows ---


@pytest.mark.parametrize("text", ["abc", "nan", "inf", "-inf", "1_000", "1,5", "True", "<NA>"])
def test_values_that_are_no_finite_numbers(write: Write, text: str) -> None:
    """Such a value is a fault of its row, shown as the file writes it."""
    values = [15000, 15000, text, 15000]
    table = read_star(write(loop("", repeated(4, rlnDefocusU=values))))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [2]
    assert "rlnDefocusU is not a finite number (1 of 4 rows)" in str(problem)
    assert f"row 2 (line 12): '{text}'" in str(problem)
    assert table.defocus_u_A[[0, 1, 3]].tolist() == [15000] * 3


def test_missing_fields_are_named(write: Write) -> None:
    """Required fields that are missing are named, with those that are there."""
    columns = {k: v for k, v in repeated(2).items() if "Voltage" not in k and "Angle" not in k}
    text = said(read_star(write(loop("", columns))))
    assert "required fields are missing: rlnDefocusAngle, rlnVoltage" in text
    assert "fields present: rlnImageName, rlnDefocusU" in text


def test_no_particles(write: Write) -> None:
    """A table without rows is read and says so."""
    columns: Columns = {label: [] for label in SINGLE}
    table = read_star(write(loop("particles", columns)))
    assert len(table) == 0
    assert "0 particles" in said(table)


# --- faults of the structure ---

GOOD_ROW = "1@a.mrcs 15000 14000 10 300 2.7"
MALFORMED: dict[str, tuple[str, int, list[int], list[str]]] = {
    "short row": (
        loop("", repeated(3)).replace("2@a.mrcs 15000 14000 10 300 2.7", "9"),
        3,
        [1],
        ["line 11: 1 value, expected 6: '9'", "1 of 3 rows"],
    ),
    "long row": (
        loop("", repeated(3)) + GOOD_ROW + " extra",
        4,
        [3],
        [f"line 14: 7 values, expected 6: '{GOOD_ROW} extra'", "1 of 4 rows"],
    ),
    "first rows, and text for numbers": (
        loop("", repeated(3)).replace("1@a.mrcs", "<<<<<<< HEAD\n7\n1@a.mrcs"),
        5,
        [0, 1],
        ["line 10: 2 values, expected 6: '<<<<<<< HEAD'", "line 11: 1 value, expected 6: '7'"],
    ),
    "short row among quotes": (
        loop("", repeated(2, rlnImageName=["'1@a b.mrcs'", "# 2@a.mrcs"])) + "\n7 8\n",
        2,
        [1],
        ["line 14: 2 values, expected 6: '7 8'", "1 of 2 rows"],
    ),
}  # fmt: skip
BROKEN: dict[str, tuple[str | bytes, list[str]]] = {
    "space in the only name": (
        loop("", repeated(1, rlnImageName=["1@my stack.mrcs"])),
        ["line 10: 7 values, expected 6", "names with spaces need quotes"],
    ),
    "all faults at once": (
        two_tables().replace("45 1\n", "45 1 1\n").replace("rlnImageSize", "rlnVoltage"),
        ["2 problems", "data_optics has a label twice", "Voltage: lines 5, 9",
         "line 23: 6 values, expected 5"],
    ),
    "faults of groups and rows at once": (
        two_tables(optics={**OPTICS, "rlnOpticsGroup": [1, 1]}).replace("45 1\n", "45\n"),
        ["2 problems", "optics group 1 is defined 2 times", "line 23: 4 values, expected 5"],
    ),
    "label twice under two prefixes": (
        loop("", {**repeated(1), "Voltage": [300]}),
        ["data_ has a label twice", "Voltage: lines 8, 10"],
    ),
    "particles twice": (
        loop("particles", SINGLE) + loop("particles", SINGLE),
        ["data_particles occurs more than once: data_particles (line 1), data_particles (line 15)"],
    ),
    "optics twice": (
        two_tables() + loop("optics", OPTICS),
        ["data_optics occurs more than once: data_optics (line 1), data_optics (line 27)"],
    ),
    "several candidates": (
        loop("a", SINGLE) + loop("b", SINGLE),
        ["several blocks could hold the particles: data_a (line 1), data_b (line 15)"],
    ),
    "second loop": (
        loop("particles", SINGLE) + "loop_\n_rlnFoo\n1\n",
        ["data_particles has a second table: loop_ in line 15"],
    ),
    "loop missing": (
        loop("particles", SINGLE).replace("loop_\n", ""),
        ["line 3: 0 values, expected 1: '_rlnImageName #1'", "Is the line loop_",
         "line 9: text outside a loop_"],
    ),
    "optics without rows": (
        two_tables(optics={label: [] for label in OPTICS}),
        ["data_optics (line 1) has no rows", "4 particles"],
    ),
    "subtomograms": (
        two_tables(optics={**OPTICS, "rlnTomoSubTomosAre2DStacks": [1, 1]}),
        ["subtomogram STAR (rlnTomoSubTomosAre2DStacks): not supported",
         "Export single-particle data"],
    ),
    "subtomograms without numbers": (
        loop("particles", {**repeated(1, rlnImageName=["a.mrcs"]), "rlnTomoName": ["TS_1"]}),
        ["subtomogram STAR (rlnTomoName): not supported"],
    ),
    "volumes": (
        two_tables(optics={**OPTICS, "rlnImageDimensionality": [2, 3]}),
        ["rlnImageDimensionality is 3", "Export single-particle data"],
    ),
    "volumes in one table": (
        loop("", repeated(1, rlnImageDimensionality=[3])),
        ["rlnImageDimensionality is 3"],
    ),
    "micrographs": (
        loop("micrographs", {"rlnMicrographName": ["a.mrc"], "rlnDefocusU": [1e4]}),
        ["this is a micrographs STAR (no rlnImageName); need a particles STAR",
         "data_micrographs (line 1): _rlnMicrographName, _rlnDefocusU"],
    ),
    "particles without names": (
        loop("particles", {"rlnDefocusU": [1e4]}),
        ["data_particles (line 1) has no rlnImageName", "cryolike convert paired"],
    ),
    "cisTEM": (
        loop("", {"cisTEMPositionInStack": [1], "cisTEMDefocus1": [1e4]}),
        ["cisTEM STAR is not supported"],
    ),
    "other labels": (
        loop("planets", {"name": ["Mars"], "moons": [2]}),
        ["no RELION labels (_rln…) found", "data_planets (line 1): _name, _moons"],
    ),
    "empty": ("", ["the file is empty"]),
    "blank": (" \n\n", ["the file is empty"]),
    "no block": ("_rlnVoltage #1\n300\n", ["no data_ block was found", "'_rlnVoltage #1'"]),
    "block name within a line": ("see data_particles below\n", ["no data_ block was found"]),
    "Git LFS": ("version https://git-lfs.github.com/spec/v1\noid x\n", ["Git LFS", "git lfs pull"]),
    "HTML": ("\n<!DOCTYPE html>\n<html>", ["web page"]),
    "gzip": (b"\x1f\x8b\x08\x00data", ["gzip"]),
    "NumPy": (b"\x93NUMPY\x01\x00", ["cryoSPARC"]),
    "binary": (b"data_\nloop_\n_rlnImageName\n\x00\x00", ["line 4 holds a byte 0x00"]),
    "UTF-16": (two_tables().encode("utf-16"), ["line 1 holds a byte 0x00", "plain text"]),
}  # fmt: skip


@pytest.mark.parametrize("pieces", [None, (16, 1)])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(
    write: Write, case: str, pieces: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be read stops at once, saying where and what to do."""
    if pieces is not None:
        monkeypatch.setattr(star_blocks, "_CHUNK_BYTES", pieces[0])
        monkeypatch.setattr(star_blocks, "_CHUNK_ROWS", pieces[1])
    text, expected = BROKEN[case]
    path = write(text)
    with pytest.raises(MetadataError) as error:
        read_star(path)
    for part in expected:
        assert part in str(error.value)
    assert all(problem.file == str(path) for problem in error.value.problems)
    assert all(problem.remedy for problem in error.value.problems)


@pytest.mark.parametrize("pieces", [None, (16, 1)])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_rows_are_faults_of_their_own(
    write: Write, case: str, pieces: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep their places and text, and the other rows are read as without them."""
    if pieces is not None:
        monkeypatch.setattr(star_blocks, "_CHUNK_BYTES", pieces[0])
        monkeypatch.setattr(star_blocks, "_CHUNK_ROWS", pieces[1])
    text, n_rows, malformed, expected = MALFORMED[case]
    table = read_star(write(text))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == malformed
    assert [part for part in expected if part not in str(problem)] == []
    assert table.source_row.tolist() == list(range(n_rows))
    lines = [table.image_name(row) for row in malformed]
    assert all(any(line in part for part in expected) for line in lines)

    others = table.take(np.setdiff1d(np.arange(n_rows), malformed))
    assert others.problems == ()
    assert set(others.defocus_u_A) == {15000.0}
    without = [line for line in text.splitlines() if line.strip() not in lines]
    clean = read_star(write("\n".join(without)))
    assert [others.image_name(i) for i in range(len(others))] == [
        clean.image_name(i) for i in range(len(clean))
    ]


def test_faults_beside_malformed_rows_have_their_own_numbers_and_lines(write: Write) -> None:
    """Rows and lines are counted with the malformed ones."""
    text = loop("", repeated(4, rlnDefocusU=[1e4, 1e4, "nan", 1e4]))
    table = read_star(write(text.replace("2@a.mrcs", "9\n2@a.mrcs")))
    malformed, not_finite = table.problems
    assert malformed.rows is not None
    assert not_finite.rows is not None
    assert (malformed.rows.tolist(), not_finite.rows.tolist()) == ([1], [3])
    assert "row 3 (line 13): 'nan'" in str(not_finite)


@pytest.mark.parametrize(
    "case",
    [
        "space in the only name",
        "particles twice",
        "loop missing",
        "volumes",
        "micrographs",
        "empty",
    ],
)
def test_broken_paired_files(write: Write, case: str) -> None:
    """Paired files stop for the same faults."""
    with pytest.raises(MetadataError):
        read_star_without_names(write(BROKEN[case][0]))


def test_faults_of_unused_blocks_do_not_matter(write: Write) -> None:
    """A block that is not needed may be broken or there twice."""
    other = "data_extra\nloop_\n_a\n_b\n1 2 3\nloop_\n_c\n1\n"
    table = read_star(write(other + two_tables() + other))
    assert table.problems == ()
    assert len(table) == 4


def test_many_bad_rows_are_counted(write: Write) -> None:
    """All rows with a wrong number of values are counted; ten are shown."""
    text = loop("", repeated(30)).replace(" 300 2.7", " 300")
    with pytest.raises(MetadataError) as error:
        read_star(write(text))
    assert "30 of 30 rows" in str(error.value)
    assert str(error.value).count("5 values, expected 6") == 10
    assert "… and 20 more" in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    """A path without a file, or of a folder, is an error that names it."""
    with pytest.raises(MissingFileError, match=r"absent\.star"):
        read_star(tmp_path / "absent.star")
    with pytest.raises(MetadataError, match="folder"):
        read_star(tmp_path)


def test_file_that_changes_while_it_is_read(write: Write) -> None:
    """A file cut between the two passes is an error, not a shorter table."""
    path = write(loop("", repeated(50)))
    (block,) = read_star_blocks(path)
    path.write_bytes(path.read_bytes()[: block.start + 100])
    with pytest.raises(MetadataError, match="50 a moment ago"):
        list(block.read([1], []))


def test_tomogram_name_alone_is_no_subtomogram(write: Write) -> None:
    """Numbered images with the name of a tomogram are single particles."""
    table = read_star(write(loop("", repeated(2, rlnTomoName=["TS_1", "TS_1"]))))
    assert table.problems == ()
    assert len(table) == 2


# --- against the starfile library ---


@pytest.mark.parametrize("layout", ["plain", "optics last", "tabs", "with a general block"])
def test_same_as_starfile(write: Write, layout: str) -> None:
    """Every value of every block is the one that the starfile library reads."""
    assert_same_as_starfile(write(variants()[layout]))


_TEXT = st.builds(
    str.__add__,
    st.sampled_from("abzAZé中"),
    st.text("abzAZ09._/-#'@ éµ中", max_size=12),
)
_COLUMNS = {
    "rlnText": _TEXT,
    "rlnMaybeEmpty": st.just("") | _TEXT,
    "rlnInteger": st.integers(-(10**9), 10**9),
    "rlnFloat": st.floats(-1e12, 1e12),
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n_rows=st.integers(1, 8))
def test_what_starfile_writes_reads_equal(tmp_path: Path, data: Any, n_rows: int) -> None:
    """Tables that the starfile library writes read back value by value."""
    labels = data.draw(st.lists(st.sampled_from(sorted(_COLUMNS)), min_size=1, unique=True))
    frame = pd.DataFrame(
        {
            label: data.draw(st.lists(_COLUMNS[label], min_size=n_rows, max_size=n_rows))
            for label in labels
        }
    )
    path = tmp_path / "random.star"
    starfile.write({"one": frame, "two": frame.iloc[:1]}, path, float_format="%.17g")
    blocks = read_star_blocks(path)
    assert [(block.name, block.n_rows) for block in blocks] == [("one", n_rows), ("two", 1)]
    for block in blocks:
        for i, label in enumerate(labels):
            expected = frame[label].to_list()[: block.n_rows]
            if label in ("rlnInteger", "rlnFloat"):
                got = np.concatenate([piece[i] for piece in block.read([i], [])])
                np.testing.assert_allclose(got, expected, rtol=1e-15)
            else:
                assert all_values(block)[label].tolist() == expected


# --- files that other programs wrote ---

VALID_SAMPLES = [
    "real/aspire/sample_particles_relion30.star",
    "real/aspire/sample_particles_relion31.star",
    "real/aspire/sample_relion_one_image.star",
    "real/aspire/sample_incomplete_ctf_params.star",
    "real/cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star",
    "real/cryodrgn/relion5.star",
    "real/cryodrgn/toy_projections_dir.star",
    "real/star-only/particle_data.star",
    "real/star-only/relion_style_particles.star",
    "relion-simulated/particles.star",
    "real/odd-star/rln3.1_data_style.star",
    "real/odd-star/single_line_end_of_multiblock.star",
    "real/odd-star/two_single_line_loop_blocks.star",
    "real/odd-star/basic_double_quote.star",
    "real/odd-star/zero.star",
]


@pytest.mark.parametrize("sample", VALID_SAMPLES)
def test_samples_same_as_starfile(shared_data: Path, sample: str) -> None:
    """Every value of every valid sample is the one that the starfile library reads."""
    assert_same_as_starfile(shared_data / sample)


@pytest.mark.parametrize(
    ("sample", "n_rows", "n_stacks", "voltages", "pixel_size_A"),
    [
        ("real/aspire/sample_particles_relion30.star", 17, 1, {300, 200}, 1.338),
        ("real/aspire/sample_particles_relion31.star", 17, 1, {300, 200}, 1.4),
        ("real/aspire/sample_relion_one_image.star", 1, 1, {300}, 1.338),
        ("real/cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star", 5, 1, {300}, 1.035),
        ("real/cryodrgn/relion5.star", 17, 2, {100}, 0.89),
        ("real/cryodrgn/toy_projections_dir.star", 1000, 2, {300}, np.nan),
        ("real/star-only/relion_style_particles.star", 106, 1, {300}, 0.725),
        ("relion-simulated/particles.star", 360, 4, {300, 200}, 2.5),
    ],
)
def test_indexed_samples(
    shared_data: Path,
    sample: str,
    n_rows: int,
    n_stacks: int,
    voltages: set[int],
    pixel_size_A: float,
) -> None:
    """Sets of RELION 3.0 to 5 and others read in full, without a fault."""
    table = read_star(shared_data / sample)
    assert table.problems == ()
    assert len(table) == n_rows
    assert len(table.image_files) == n_stacks
    assert set(table.voltage_kV) == voltages
    np.testing.assert_allclose(table.pixel_size_A, pixel_size_A, rtol=1e-6)
    paired = read_star_without_names(shared_data / sample)
    np.testing.assert_array_equal(paired.defocus_u_A, table.defocus_u_A)


def test_rows_of_the_published_example(shared_data: Path) -> None:
    """As many rows as lines that begin with an image name, in their order."""
    path = shared_data / "real/star-only/relion_style_particles.star"
    names = [line.split()[0] for line in path.read_text().splitlines() if "@" in line]
    table = read_star(path)
    assert [table.image_name(row) for row in range(len(table))] == names
    assert table.box_px is not None
    assert set(table.box_px) == {384}


def test_generic_sample(shared_data: Path) -> None:
    """The generic sample has no names: paired it reads in full, indexed it says what to do."""
    path = shared_data / "real/star-only/particle_data.star"
    table = read_star_without_names(path)
    assert table.problems == ()
    n_lines = sum(line.startswith("300.000000") for line in path.read_text().splitlines())
    assert len(table) == n_lines
    assert (table.defocus_u_A[0], table.defocus_v_A[0]) == (21213.220703, 21529.429688)
    with pytest.raises(MetadataError, match="no block has rlnImageName") as error:
        read_star(path)
    assert "paired" in str(error.value)


def test_incomplete_sample(shared_data: Path) -> None:
    """The sample without a voltage is told so."""
    table = read_star(shared_data / "real/aspire/sample_incomplete_ctf_params.star")
    assert "required fields are missing: rlnVoltage\n" in said(table)


def test_numbers_from_zero_sample(shared_data: Path) -> None:
    """The sample that counts images from 0 is told so, for the row that shows it."""
    table = read_star(shared_data / "real/odd-star/zero.star")
    assert "rlnImageName has image number 0 (1 of 2 rows)" in said(table)
    assert "row 0 (line 7): '0@stack.mrcs'" in said(table)
    assert table.image_index[1] == 0


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("bad_rows.star", "line 7: 1 value, expected 2: '2@a.mrcs'"),
        ("basic_double_quote.star", "no RELION labels"),
        ("col_mismatch.star", "line 6: 3 values, expected 2: '1@a.mrcs 10000 extra_col'"),
        ("dup.star", "data_particles (line 1), data_particles (line 7)"),
        ("empty_loop.star", "no block has rlnImageName"),
        ("git_lfs_pointer.star", "Git LFS pointer"),
        ("multi_line_c_engine.star", "data_block_3 (line 3), data_block_3 (line 16)"),
        ("one_loop.star", "subtomogram"),
        ("particles_out.star", "no data_ block was found"),
        ("rln3.1_data_style.star", "data_block_2 (line 17), data_block_3 (line 30)"),
        ("single_line_end_of_multiblock.star", "data_block_1 (line 3), data_block_2 (line 16)"),
        ("two_loops_one_block.star", "no RELION labels"),
        ("two_single_line_loop_blocks.star", "no RELION labels"),
    ],
)
def test_odd_samples(shared_data: Path, sample: str, message: str) -> None:
    """Each odd sample is refused with what is wrong with it."""
    with pytest.raises(MetadataError) as error:
        raise_problems(read_star(shared_data / "real/odd-star" / sample).problems)
    assert message in str(error.value)


def test_structure_faults_of_a_sample(shared_data: Path) -> None:
    """The block with two tables reports both its long row and its second table."""
    blocks = read_star_blocks(shared_data / "real/odd-star/two_loops_one_block.star")
    assert [(block.name, block.is_loop, len(block.faults)) for block in blocks] == [
        ("general", False, 0),
        ("planetary", True, 1),
    ]
    assert "loop_ in line 26" in str(blocks[1].faults[0])
    (long_row,) = blocks[1].malformed_faults()
    assert "line 20: 5 values, expected 4: 'Mars" in str(long_row)
