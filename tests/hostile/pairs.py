"""STAR files and stacks given in pairs that do not fit, or are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.builders import SetBuilder
from tests.hostile.cases import Accepted, Make, Rejected, Source, pairs_source

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import InputError, MissingFileError, UsageError


def pairs(change: Callable[[list[Path], list[Path]], object]) -> Make:
    """Make pairs of 3 and 2 images and change them."""

    def make(build: SetBuilder) -> Source:
        star_files, stacks = build.pairs((3, 2))
        change(star_files, stacks)
        return pairs_source(star_files, stacks)

    return make


def replaced(path: Path, old: str, new: str) -> None:
    """Replace text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def all_at_once(star_files: list[Path], stacks: list[Path]) -> None:
    """Damage what there is of both pairs."""
    replaced(star_files[0], "300", "300000")
    stacks[0].write_bytes(stacks[0].read_bytes()[:-1])
    star_files[1].unlink()
    stacks[1].unlink()


def one_of_each_missing(star_files: list[Path], stacks: list[Path]) -> None:
    """Remove a file of each kind."""
    star_files[0].unlink()
    stacks[1].unlink()


REJECTED = [
    Rejected(
        id="66-rows-and-images-differ",
        make=pairs(lambda stars, stacks: stars.reverse()),
        says=("pair_1.star: 2 rows, but", "pair_0.mrcs holds 3 images", "pair_0.star: 3 rows, but"),
        remedy="give the stack that these rows describe",
        n_problems=2,
        options={"pixel_size_A": 2.0},
    ),
    Rejected(
        id="66-more-stacks-than-star-files",
        make=pairs(lambda stars, stacks: stars.pop()),
        error=UsageError,
        says=("1 STAR file for 2 MRC stacks",),
        remedy="one for each, in the same order",
    ),
    Rejected(
        id="6-files-missing",
        make=pairs(one_of_each_missing),
        error=MissingFileError,
        says=("pair_0.star: there is no such file", "pair_1.mrcs: does not exist"),
        remedy="Check the",
        n_problems=2,
    ),
    Rejected(
        id="62-nan-in-one-of-them",
        make=pairs(lambda stars, stacks: replaced(stars[1], "10010.0", "nan")),
        says=("pair_1.star: rlnDefocusU is not a finite number (1 of 2 rows)", "'nan'"),
        remedy="--on-bad-row skip",
        options={"pixel_size_A": 2.0},
    ),
    Rejected(
        id="79-no-pixel-size-anywhere",
        make=pairs(lambda stars, stacks: None),
        error=UsageError,
        says=("pair_0.star, ", "neither the metadata nor the headers of the stacks"),
        remedy="--pixel-size",
    ),
    Rejected(
        id="12-not-a-list-of-ctfs",
        make=pairs(lambda stars, stacks: replaced(stars[0], "_rlnDefocus", "_rlnFocus")),
        says=("pair_0.star: required fields are missing: rlnDefocusU", "rlnFocusU"),
        remedy="came after CTF estimation",
    ),
    Rejected(
        id="all-at-once",
        make=pairs(all_at_once),
        error=InputError,
        says=(
            "pair_0.star: rlnVoltage is outside 10 to 1,500 kV (3 of 3 rows)",
            "pair_0.mrcs: is cut off",
            "pair_1.star: there is no such file",
            "pair_1.mrcs: does not exist",
        ),
        remedy="Voltages are in kV",
        n_problems=4,
    ),
]


def plain(build: SetBuilder) -> Source:
    """Make pairs of 3 and 2 images."""
    return pairs_source(*build.pairs((3, 2)))


def with_poses(stars: list[Path]) -> None:
    """Turn a column into poses that cannot be right, and the pixel size into another."""
    for path in stars:
        replaced(path, "_rlnPhaseShift", "_rlnAngleRot")
        replaced(path, " 0.1 2.0", " 0.1 777")


def odd(id: str, make: Make, *, warns: tuple[str, ...] = ()) -> Accepted:
    """Odd pairs whose images are those of the plain ones."""
    return Accepted(id=id, make=make, warns=warns, same_as=plain, options={"pixel_size_A": 2.0})


ACCEPTED = [
    odd("control", plain),
    odd(
        "66-fields-that-are-ignored",
        pairs(lambda stars, stacks: with_poses(stars)),
        warns=("rlnPhaseShift is missing",),
    ),
    odd("57-crlf", pairs(lambda stars, _: replaced(stars[0], "\n", "\r\n"))),
    Accepted(
        id="79-no-pixel-size-but-a-descriptor",
        make=plain,
        warns=("No file gives the pixel size: the descriptor's, 2 Å, is used",),
        descriptor=ImageDescriptor.from_individual_values(12, 2.0),
    ),
]
