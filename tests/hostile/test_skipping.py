"""Rows and images that are left out on request, and the list of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tests.builders import SetBuilder
from tests.hostile import star_rows
from tests.hostile.cases import Make, Source, pairs_source
from tests.hostile.cryosparc_sets import fields, single
from tests.hostile.stack_sets import stack, whole_numbers
from tests.hostile.star_sets import FIRST, SECOND, edited, with_names
from tests.program import Outcome, run_program

from cryolike.store import open_stacks

Rows = list[tuple[int, str, str]]


def convert(source: Source, out: Path, *flags: str) -> Outcome:
    """Convert a set by the command."""
    return run_program("convert", *source.words, "-o", out, "--no-plots", "-q", *flags)


def rejects(out: Path) -> list[list[str]]:
    """Lines of the list of what was left out."""
    with (out / "rejects.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def source_rows(out: Path) -> list[int]:
    """Rows of the source that were converted, in order."""
    rows: list[int] = open_stacks(out).table["source_row"].tolist()
    return rows


BAD_ROWS: list[tuple[str, Make, list[int], Rows]] = [
    (
        "malformed",
        edited((" 9520.0", ""), (f"000001@{SECOND}", f"9\n000001@{SECOND}")),
        [0, 1, 4, 5],
        [
            (2, f"000003@{FIRST} 1 10020.0 6.0 1.0", "wrong number of values"),
            (3, "9", "wrong number of values"),
        ],
    ),
    (
        "names",
        with_names(f"1@{FIRST}", f"0@{FIRST}", f"-2@{FIRST}", f"4@{FIRST}", "1@gone.mrcs"),
        [0],
        [
            (1, f"0@{FIRST}", "rlnImageName has image number 0"),
            (2, f"-2@{FIRST}", "rlnImageName is not of the form NUMBER@STACK"),
            (3, f"000004@{FIRST}", "image number past the end of its stack"),
            (4, "000001@gone.mrcs", "file not found"),
        ],
    ),
    (
        "cryosparc",
        fields(
            ctf__accel_kv=single([300, 3e5, 300, 300, 300]),
            blob__psize_A=single([2, 0, 2, 2.5, 2]),
            blob__idx=np.array([0, 1, -1, 0, 7], dtype=np.int64),
        ),
        [0],
        [
            (
                1,
                "000002@J1/a.mrc",
                "ctf/accel_kv is outside 10 to 1,500 kV; blob/psize_A is outside 0.001 to 1,000 Å",
            ),
            (2, "J1/a.mrc", "blob/idx is no number of an image"),
            (3, "000001@J1/b.mrc", "pixel size 2.5 Å"),
            (4, "000008@J1/b.mrc", "image number past the end of its stack"),
        ],
    ),
]


@pytest.mark.parametrize(("make", "kept", "left_out"), [c[1:] for c in BAD_ROWS])
def test_bad_rows_are_left_out_and_named(
    make: Make,
    kept: list[int],
    left_out: Rows,
    build: SetBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list holds each row once, with all that is wrong with it; the summary counts them."""
    monkeypatch.chdir(build.folder)
    source, out = make(build), tmp_path / "out"
    outcome = convert(source, out, "--on-bad-row", "skip")
    assert outcome.code == 0
    n_rows = len(kept) + len(left_out)
    assert f"rows         {n_rows} chosen, {len(left_out)} skipped" in outcome.out
    assert f"{len(kept)} of {n_rows} images in 1 stack" in outcome.out
    assert f"skipped: {len(left_out)} row" in outcome.out
    assert ", listed in rejects.csv" in outcome.out
    assert source_rows(out) == kept
    head, *lines = rejects(out)
    assert head == ["metadata_file", "source_row", "image_name", "reason"]
    assert {line[0] for line in lines} == {source.words[1]}
    assert [(int(row), name, reason) for _, row, name, reason in lines] == left_out


def test_everything_wrong_with_single_rows_can_be_left_out(
    build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the set with a dozen faults one row is good."""
    monkeypatch.chdir(build.folder)
    source, out = star_rows.all_at_once(build), tmp_path / "out"
    assert convert(source, out, "--on-bad-row", "skip").code == 0
    n_rows = len(source.read())
    (good,) = source_rows(out)
    assert [int(line[1]) for line in rejects(out)[1:]] == [i for i in range(n_rows) if i != good]


def test_rows_left_out_of_a_pair_take_their_images_with_them(
    build: SetBuilder, tmp_path: Path
) -> None:
    """The other rows keep the images of their places."""
    star_files, stacks = build.pairs((3, 2))
    text = star_files[0].read_text()
    star_files[0].write_text(text.replace("1 10010.0 9510.0 3.0 0.5", "1 10010.0"))
    out = tmp_path / "out"
    source = pairs_source(star_files, stacks)
    flags = ("--pixel-size", "2", "--on-bad-row", "skip")
    assert convert(source, out, *flags).code == 0
    stored = open_stacks(out).table
    assert stored["source_row"].tolist() == [0, 2, 0, 1]
    assert stored["image_index"].tolist() == [0, 2, 0, 1]
    name = f"000002@{stacks[0]}"
    assert rejects(out)[1:] == [[str(star_files[0]), "1", name, "wrong number of values"]]


def damaged_images() -> np.ndarray:
    """Images of which 1 is blank, 3 holds NaN and 4 an infinite pixel."""
    images = whole_numbers()
    images[1] = 7
    images[3, 2, 2], images[4, 0, 0] = np.nan, np.inf
    return images


BLANK, NOT_FINITE = "blank: all pixels are equal", "NaN or infinite pixels"


def test_bad_images_are_left_out_and_named(build: SetBuilder, tmp_path: Path) -> None:
    """They are listed with rows left out before, and counted together."""
    source = stack(images=damaged_images())(build)
    path = Path(source.words[1])
    path.write_text(path.read_text().replace(" 10000.0 ", " nan "))
    out = tmp_path / "out"
    outcome = convert(source, out, "--on-bad-row", "skip", "--on-bad-image", "skip")
    assert outcome.code == 0
    assert "5 chosen, 1 skipped" in outcome.out
    assert "1 of 5 images in 1 stack" in outcome.out
    assert "skipped: 4 rows, listed in rejects.csv" in outcome.out
    assert source_rows(out) == [2]
    assert [line[1:] for line in rejects(out)[1:]] == [
        ["0", "000001@a.mrcs", "rlnDefocusU is not a finite number"],
        ["1", "000002@a.mrcs", BLANK],
        ["3", "000004@a.mrcs", NOT_FINITE],
        ["4", "000005@a.mrcs", NOT_FINITE],
    ]


def test_stacks_before_a_bad_image_stay(build: SetBuilder, tmp_path: Path) -> None:
    """The run stops at the first stack with bad images, names those, and can go on without."""
    source, out = stack(images=damaged_images())(build), tmp_path / "out"
    outcome = convert(source, out, "--batch-size", "1")
    assert outcome.code == 1
    assert f"row 1: 000002@a.mrcs ({BLANK})" in outcome.err
    assert "row 3" not in outcome.err
    names = sorted(path.name for path in (out / "fft").iterdir())
    assert names == [f"particles_fourier_stack_000000.{end}" for end in ("npz", "pt")]
    first = (out / "fft" / names[1]).read_bytes()

    flags = ("--batch-size", "1", "--on-bad-image", "skip", "--resume")
    outcome = convert(source, out, *flags)
    assert outcome.code == 0
    assert "kept from an earlier run: 1 stack" in outcome.out
    assert "skipped: 3 rows, listed in rejects.csv" in outcome.out
    assert (out / "fft" / names[1]).read_bytes() == first
    assert source_rows(out) == [0, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (edited(("_rlnDefocusU", "_rlnSomething")), "required fields are missing: rlnDefocusU"),
        (edited(("1 300 2.7", "1 300 2.7 9")), "line 10: 6 values, expected 5"),
        (with_names("1@gone.mrcs", "2@gone.mrcs"), "1 of 1 files not found (2 of 2 rows)"),
    ],
)
def test_what_is_wrong_with_all_rows_cannot_be_left_out(
    make: Make, words: str, build: SetBuilder, tmp_path: Path
) -> None:
    """A file of which nothing is left stops the run, and nothing is written."""
    out = tmp_path / "out"
    outcome = convert(make(build), out, "--on-bad-row", "skip")
    assert outcome.code == 1
    assert words in outcome.err
    assert not out.exists()
