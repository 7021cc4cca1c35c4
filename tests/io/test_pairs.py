"""Pairs of STAR files and MRC stacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryolike.errors import (
    CryoLikeError,
    InputError,
    MetadataError,
    MissingFileError,
    UsageError,
)
from cryolike.io.pairs import read_pairs

LABELS = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnAmplitudeContrast",
)
Pair = tuple[Path, Path]


def write_star(path: Path, defocus_A: Sequence[float], *, voltage: object = 300) -> Path:
    """Write one row for each defocus: angle 90, phase shift 45."""
    rows = [f"{u} {u - 500} 90 45 2.7 {voltage} 0.1" for u in defocus_A]
    labels = [f"_{label} #{i}" for i, label in enumerate(LABELS, 1)]
    path.write_text("\n".join(["", "data_particles", "", "loop_", *labels, *rows, ""]))
    return path


def write_stack(path: Path, n_images: int) -> Path:
    """Write a stack of noise."""
    pixels = np.random.default_rng(n_images).normal(size=(n_images, 8, 8)).astype(np.float32)
    with mrcfile.new(path) as stream:
        stream.set_data(pixels)
        stream.set_image_stack()
    return path


def write_pair(folder: Path, name: str, defocus_A: Sequence[float], n_images: int) -> Pair:
    """Write a STAR file and a stack."""
    return (
        write_star(folder / f"{name}.star", defocus_A),
        write_stack(folder / f"{name}.mrcs", n_images),
    )


def columns_of(pairs: Sequence[Pair]) -> tuple[list[Path], list[Path]]:
    """Split pairs in STAR files and stacks."""
    return [star for star, _ in pairs], [stack for _, stack in pairs]


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Three pairs, of 3, 1 and 2 images."""
    return [
        write_pair(tmp_path, "b", [10_000, 10_100, 10_200], 3),
        write_pair(tmp_path, "a", [20_000], 1),
        write_pair(tmp_path, "c", [30_000, 30_100], 2),
    ]


def test_rows_follow_the_order_of_the_pairs(pairs: list[Pair]) -> None:
    """Rows of all files come one after the other, each with its pair, row and image."""
    stars, stacks = columns_of(pairs)
    table = read_pairs(stars, stacks)
    assert table.problems == ()
    assert table.kind == "paired"
    assert table.defocus_u_A.tolist() == [10_000, 10_100, 10_200, 20_000, 30_000, 30_100]
    assert table.metadata_files == tuple(map(str, stars))
    assert table.image_files == tuple(map(str, stacks))
    assert table.metadata_index.tolist() == [0, 0, 0, 1, 2, 2]
    assert table.image_file_index.tolist() == [0, 0, 0, 1, 2, 2]
    assert table.source_row.tolist() == [0, 1, 2, 0, 0, 1]
    assert table.image_index.tolist() == [0, 1, 2, 0, 0, 1]


def test_paths_may_be_text(pairs: list[Pair]) -> None:
    """Names given as str are read like paths."""
    stars, stacks = columns_of(pairs)
    table = read_pairs(list(map(str, stars)), tuple(map(str, stacks)))
    assert len(table) == 6


@pytest.mark.parametrize(("angle_is_degree", "phase_is_degree"), [(True, False), (False, True)])
def test_units_of_angles_are_as_told(
    tmp_path: Path, angle_is_degree: bool, phase_is_degree: bool
) -> None:
    """Each of the two angles has its own switch between degrees and radians."""
    star, stack = write_pair(tmp_path, "a", [20_000], 1)
    table = read_pairs(
        [star],
        [stack],
        defocus_angle_is_degree=angle_is_degree,
        phase_shift_is_degree=phase_is_degree,
    )
    angle_rad, phase_rad = table.defocus_angle_rad[0], table.phase_shift_rad[0]
    assert angle_rad == pytest.approx(np.pi / 2 if angle_is_degree else 90)
    assert phase_rad == pytest.approx(np.pi / 4 if phase_is_degree else 45)


def test_image_names_in_the_star_file_do_not_count(tmp_path: Path) -> None:
    """Rows apply in sequence although the STAR file names other images."""
    star, stack = write_pair(tmp_path, "a", [20_000, 20_100], 2)
    lines = star.read_text().splitlines()
    lines.insert(lines.index("_rlnAmplitudeContrast #7") + 1, "_rlnImageName #8")
    lines[-2:] = [f"{line} 00000{9 - i}@other.mrcs" for i, line in enumerate(lines[-2:])]
    star.write_text("\n".join([*lines, ""]))
    table = read_pairs([star], [stack])
    assert table.problems == ()
    assert table.image_files == (str(stack),)
    assert table.image_index.tolist() == [0, 1]


def test_all_unequal_counts_are_problems(tmp_path: Path, pairs: list[Pair]) -> None:
    """Each pair whose rows and images differ is named with both files and both counts."""
    fewer = write_pair(tmp_path, "fewer", [9_000, 9_100], 5)
    more = write_pair(tmp_path, "more", [9_000, 9_100, 9_200], 1)
    table = read_pairs(*columns_of([fewer, *pairs, more]))
    assert len(table.problems) == 2
    for problem, (star, stack), counts in zip(
        table.problems, (fewer, more), (("2 rows", "5 images"), ("3 rows", "1 images")), strict=True
    ):
        assert problem.rows is None
        assert all(text in str(problem) for text in (str(star), str(stack), *counts))


def test_problems_of_rows_keep_their_place(tmp_path: Path, pairs: list[Pair]) -> None:
    """A bad value in the last file is a problem of the row in the whole table."""
    bad = write_pair(tmp_path, "bad", [9_000], 1)
    write_star(bad[0], [9_000], voltage="abc")
    table = read_pairs(*columns_of([*pairs, bad]))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [6]
    assert problem.file == str(bad[0])


def test_all_unreadable_files_are_named_at_once(tmp_path: Path, pairs: list[Pair]) -> None:
    """One error has every file that cannot be read, and what is wrong with the other pairs."""
    absent_star = tmp_path / "absent.star"
    not_a_star = tmp_path / "not.star"
    not_a_star.write_text("nothing of the kind\n")
    broken_stack = tmp_path / "broken.mrcs"
    broken_stack.write_bytes(b"no header")
    unequal = write_pair(tmp_path, "unequal", [9_000], 4)
    stars, stacks = columns_of([*pairs, unequal])
    stars[0], stars[1], stacks[2] = absent_star, not_a_star, broken_stack
    with pytest.raises(InputError) as caught:
        read_pairs(stars, stacks)
    named = {problem.file for problem in caught.value.problems}
    assert named == {str(f) for f in (absent_star, not_a_star, broken_stack, unequal[0])}


def test_both_files_of_a_pair_are_checked(tmp_path: Path) -> None:
    """Where neither file of a pair exists, both are named."""
    with pytest.raises(MissingFileError) as caught:
        read_pairs([tmp_path / "a.star"], [tmp_path / "a.mrcs"])
    assert [Path(p.file).name for p in caught.value.problems] == ["a.star", "a.mrcs"]


def test_lists_must_be_of_one_length(pairs: list[Pair]) -> None:
    """Lists of different length are refused, with both lengths; so are empty ones."""
    stars, stacks = columns_of(pairs)
    with pytest.raises(UsageError, match="3 STAR files for 2 MRC stacks"):
        read_pairs(stars, stacks[:2])
    with pytest.raises(UsageError, match="No STAR files"):
        read_pairs([], [])


def test_a_single_name_is_no_list(pairs: list[Pair]) -> None:
    """A path given as text is not taken as a list of letters."""
    stars, stacks = columns_of(pairs)
    with pytest.raises(UsageError, match="two lists"):
        read_pairs(str(stars[0]), [stacks[0]])


def test_images_flagged_as_corrected_need_consent(tmp_path: Path) -> None:
    """Premultiplied images are a problem unless accepted."""
    star, stack = write_pair(tmp_path, "a", [20_000], 1)
    text = star.read_text().replace("#7\n", "#7\n_rlnCtfDataAreCtfPremultiplied #8\n")
    star.write_text(text.replace(" 0.1\n", " 0.1 1\n"))
    assert len(read_pairs([star], [stack]).problems) == 1
    assert read_pairs([star], [stack], accept_ctf_applied=True).problems == ()


def test_real_metadata_without_names(shared_data: Path, tmp_path: Path) -> None:
    """A STAR file of generic columns applies to any stack of as many images, and to no other."""
    star = shared_data / "real" / "star-only" / "particle_data.star"
    with pytest.raises(CryoLikeError):
        read_pairs([star], [tmp_path / "absent.mrcs"])
    table = read_pairs([star], [write_stack(tmp_path / "one.mrcs", 1)])
    n_rows = len(table)
    assert [problem.rows for problem in table.problems] == [None]
    assert read_pairs([star], [write_stack(tmp_path / "all.mrcs", n_rows)]).problems == ()


def test_error_of_one_kind_has_its_class(pairs: list[Pair], tmp_path: Path) -> None:
    """Where only STAR files are broken, the error is one of metadata."""
    stars, stacks = columns_of(pairs)
    stars[1] = tmp_path / "not.star"
    stars[1].write_text("nothing of the kind\n")
    with pytest.raises(MetadataError):
        read_pairs(stars, stacks)
