"""Particle sets and structures that cannot be scored, and odd ones that can."""

from __future__ import annotations

import gzip
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from tests.builders import SetBuilder
from tests.hostile.star_sets import LFS_POINTER, WEB_PAGE
from tests.program import run_program
from tests.structures import Row, pdb_text

from cryolike.descriptor import ImageDescriptor

__all__ = ["ACCEPTED", "COARSE", "REJECTED", "OddScore", "RejectedScore", "plain_map"]

N_PIXELS, PIXEL_SIZE_A = 12, 2.0

COARSE = ("--view-spacing", "40", "--shift-max", "1", "--no-plots")
"""Options with which scoring takes no time; those that come later take precedence."""

BAD_DATA, BAD_USAGE = 1, 2

Make = Callable[[SetBuilder], Sequence[object]]
"""Writes files, and gives what follows `cryolike score`."""


@dataclass(frozen=True, kw_only=True)
class RejectedScore:
    """What must not be scored.

    Parameters
    ----------
    id
        What is wrong.
    make
        Writes the files.
    says
        Parts of the message, what to do among them.
    n_problems
        How many things the error lists.
    code
        Exit code.
    """

    id: str
    make: Make
    says: tuple[str, ...]
    n_problems: int = 1
    code: int = BAD_DATA


@dataclass(frozen=True, kw_only=True)
class OddScore:
    """What is odd, but is scored; `warns` are parts of the warnings, one each."""

    id: str
    make: Make
    warns: tuple[str, ...] = ()


# Files


def blob(n: int = N_PIXELS, width: float = 1.5) -> np.ndarray:
    """Give a lopsided lump in the middle of a cube."""
    z, y, x = np.indices((n, n, n)) - n // 2
    values: np.ndarray = np.exp(-(x**2 + y**2 / 2 + (z - 0.1 * x) ** 2) / (2 * width**2))
    return values


def write_map(path: Path, values: np.ndarray, voxel_size_A: float = PIXEL_SIZE_A) -> Path:
    """Write a map."""
    with warnings.catch_warnings(), mrcfile.new(path) as file:
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN
        file.set_data(values.astype(np.float32))
        file.voxel_size = voxel_size_A
    return path


def plain_map(build: SetBuilder, name: str = "good.mrc") -> Path:
    """Write a map that fits the set of `star_file`."""
    return write_map(build.folder / name, blob())


def star_file(
    build: SetBuilder, columns: Mapping[str, object] | None = None, **keywords: Any
) -> Path:
    """Write five images of 12 pixels in two stacks."""
    known = {"rlnCtfBfactor": 0, "rlnCtfScalefactor": 1}
    return build.relion((3, 2), columns=known | dict(columns or {}), **keywords).path


def model(*positions_A: tuple[float, float, float], residue: str = "ALA") -> list[Row]:
    """Alpha carbons."""
    return [Row("CA", residue, "A", i, xyz, "C") for i, xyz in enumerate(positions_A, 1)]


SMALL = model((0, 0, 0), (3.8, 0, 0), (3.8, 3.8, 0), (0, 3.8, 2))


def write_model(build: SetBuilder, rows: Sequence[Row], name: str = "model.pdb") -> Path:
    """Write a PDB file."""
    path = build.folder / name
    path.write_text(pdb_text(rows))
    return path


# Ways to call the program


def with_structures(*write: Callable[[SetBuilder], Path], words: Sequence[object] = ()) -> Make:
    """Score a good set against structures."""

    def make(build: SetBuilder) -> list[object]:
        structures = [word for path in write for word in ("-s", path(build))]
        return [star_file(build), *structures, *words]

    return make


def of_map(values: np.ndarray, voxel_size_A: float = PIXEL_SIZE_A, **keywords: Any) -> Make:
    """Score a good set against a map."""
    return with_structures(
        lambda build: write_map(build.folder / "odd.mrc", values, voxel_size_A), **keywords
    )


def of_model(rows: Sequence[Row], **keywords: Any) -> Make:
    """Score a good set against a model."""
    return with_structures(partial(write_model, rows=rows), **keywords)


def of_bytes(content: bytes, name: str = "odd.pdb") -> Make:
    """Score a good set against a file of these bytes."""

    def write(build: SetBuilder) -> Path:
        path = build.folder / name
        path.write_bytes(content)
        return path

    return with_structures(write)


def with_words(*words: object) -> Make:
    """Score a good set against a good map with further words."""
    return with_structures(plain_map, words=words)


def with_set(**keywords: Any) -> Make:
    """Score a set that is made differently against a good map."""
    return lambda build: [star_file(build, **keywords), "-s", plain_map(build)]


def with_descriptor(*words: object, write: Callable[[SetBuilder], Path], **values: Any) -> Make:
    """Score a good set with a descriptor of other values."""

    def make(build: SetBuilder) -> list[object]:
        path = build.folder / "params.npz"
        arguments = {"n_pixels": N_PIXELS, "pixel_size": PIXEL_SIZE_A, **values}
        ImageDescriptor.from_individual_values(**arguments).save(path)
        return [star_file(build), "-s", write(build), "--params", path, *words]

    return make


def cut(make_file: Callable[[SetBuilder], Path], n_bytes: int) -> Callable[[SetBuilder], Path]:
    """Take bytes off the end of a file."""

    def write(build: SetBuilder) -> Path:
        path = make_file(build)
        path.write_bytes(path.read_bytes()[:-n_bytes])
        return path

    return write


def compressed(make_file: Callable[[SetBuilder], Path]) -> Callable[[SetBuilder], Path]:
    """Compress a file."""

    def write(build: SetBuilder) -> Path:
        plain = make_file(build)
        path = plain.with_name(f"{plain.name}.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
        return path

    return write


def bad_set_and_structures(build: SetBuilder) -> list[object]:
    """Write a set that lacks a stack, and structures that cannot be used either."""
    built = build.relion((3, 2), columns={"rlnCtfScalefactor": [1, 1, 0, 1, 1]})
    built.stacks[0].unlink()
    blank = write_map(build.folder / "blank.mrc", np.zeros((12, 12, 12)))
    return [built.path, "-s", blank, "-s", build.folder / "absent.pdb", "-s", plain_map(build)]


def no_metadata_and_no_structure(build: SetBuilder) -> list[object]:
    """Name two files that are not there."""
    return [build.folder / "absent.star", "-s", build.folder / "absent.pdb"]


def converted(
    change: Callable[[Path, SetBuilder], object] = lambda *_: None, *words: object
) -> Make:
    """Score a set that was converted, and changed since."""

    def make(build: SetBuilder) -> list[object]:
        folder = build.folder / "converted"
        outcome = run_program(
            *("convert", "star", star_file(build), "-o", folder, "-q", "--batch-size", 2),
            "--no-plots",
        )
        assert outcome.code == 0, outcome.err
        change(folder, build)
        return [folder, "-s", plain_map(build), *words]

    return make


def damage_stacks(folder: Path, _build: SetBuilder) -> None:
    """Cut one file of images, and remove one of metadata."""
    first, second, *_ = sorted((folder / "fft").glob("*.pt"))
    first.write_bytes(first.read_bytes()[:-10])
    second.with_suffix(".npz").unlink()


def damage_manifest(folder: Path, _build: SetBuilder) -> None:
    """Change a number in the list of files."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["stacks"][0]["n_images"] = 1
    path.write_text(json.dumps(content))


def add_a_row(_folder: Path, build: SetBuilder) -> None:
    """Change the STAR file after it was converted."""
    path = build.folder / "particles.star"
    path.write_text(path.read_text() + "\n")


def other_descriptor(folder: Path, _build: SetBuilder) -> None:
    """Write a descriptor of other pixels beside the set."""
    descriptor = ImageDescriptor.from_individual_values(n_pixels=N_PIXELS, pixel_size=4.0)
    descriptor.save(folder.with_name("params.npz"))


def cryosparc(**fields: Any) -> Make:
    """Score a .cs file."""

    def make(build: SetBuilder) -> list[object]:
        build.stack("J1/a.mrc", build.noise(4))
        path = build.cryosparc(["J1/a.mrc"] * 4, range(4), **fields)
        return [path, "-s", plain_map(build)]

    return make


def same_name_twice(build: SetBuilder) -> list[object]:
    """Write two structures of one name in two folders."""
    path = plain_map(build)
    (build.folder / "other").mkdir()
    shutil.copy(path, build.folder / "other" / path.name)
    return [star_file(build), "-s", path, "-s", build.folder / "other" / path.name]


def outside(n: int = 32) -> np.ndarray:
    """Give a map whose density is at its edge."""
    values = np.zeros((n, n, n))
    values[:3, 4:9, :5] = 1
    return values


def with_nan() -> np.ndarray:
    """Give a map of which two voxels are NaN."""
    values = blob()
    values[1, 2, 3:5] = np.nan
    return values


def uneven(build: SetBuilder) -> Path:
    """Write a map whose voxels are no cubes."""
    path = plain_map(build, "uneven.mrc")
    with mrcfile.open(path, "r+") as file:
        file.voxel_size = (2.0, 2.0, 3.0)
    return path


FAR = model((-40, 0, 0), (40, 0, 0))
_AROUND: Mapping[str, Any] = {"rlnAngleRot": 0.0, "rlnAngleTilt": 0.0, "rlnAnglePsi": 0.0}

REJECTED = [
    # All at once
    RejectedScore(
        id="set-and-structures",
        make=bad_set_and_structures,
        says=(
            "Particles/stack_02.mrcs",
            "blank.mrc: all voxels are 0",
            "absent.pdb: there is no such file",
        ),
        n_problems=3,
    ),
    RejectedScore(
        id="nothing-is-there",
        make=no_metadata_and_no_structure,
        says=("absent.star: there is no such file", "absent.pdb: there is no such file"),
        n_problems=2,
    ),
    RejectedScore(
        id="two-kinds-of-bad-rows",
        make=with_set(columns={"rlnCtfScalefactor": [1, 0, 1, 1, 0]}),
        says=("row 1: ", "row 4: ", "its CTF is zero everywhere", "--on-bad-image skip"),
    ),
    RejectedScore(
        id="ctf-that-no-number-holds",
        make=with_set(columns={"rlnCtfBfactor": [0, 0, 0, 1e9, 0]}),
        says=("1 image cannot be", "row 3: ", "its CTF is zero everywhere"),
    ),
    # Structures
    RejectedScore(
        id="map-blank", make=of_map(np.zeros((12, 12, 12))), says=("odd.mrc: all voxels are 0",)
    ),
    RejectedScore(id="map-nan", make=of_map(with_nan()), says=("2 voxels of 1,728 are NaN",)),
    RejectedScore(
        id="map-outside-the-box",
        make=of_map(outside()),
        says=("odd: there is no density in the box", "64 × 64 × 64 Å", "innermost 24 Å", "middle"),
    ),
    RejectedScore(
        id="map-of-huge-voxels",
        make=of_map(blob(), 200.0),
        says=("odd: there is no density in the box", "its voxel size"),
    ),
    RejectedScore(
        id="map-of-tiny-voxels",
        make=of_map(blob(130, 20.0), 0.18, words=("--memory", "50M")),
        says=("odd: slices of", "more than the 0.05 GB allowed", "a smaller map"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="map-cut",
        make=with_structures(cut(plain_map, 500)),
        says=("good.mrc: is cut off", "Copy or write the file again"),
    ),
    RejectedScore(
        id="map-cut-while-compressed",
        make=with_structures(cut(compressed(plain_map), 50)),
        says=("good.mrc.gz", "damaged or cut off", "Copy or download it again"),
    ),
    RejectedScore(
        id="map-uneven",
        make=with_structures(uneven),
        says=("has voxels of 2 × 2 × 3 Å", "Resample"),
    ),
    RejectedScore(
        id="stack-as-a-map",
        make=lambda build: [star_file(build), "-s", build.folder / "Particles/stack_01.mrcs"],
        says=("is marked as a stack of images", "Give a map"),
    ),
    RejectedScore(
        id="model-larger-than-the-box",
        make=of_model(FAR),
        says=("does not fit in the box", "Use images of at least"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="model-without-such-atoms",
        make=with_descriptor(
            write=partial(write_model, rows=SMALL), atom_selection="name CB and chain Z"
        ),
        says=("name CB and chain Z", "no atom"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="model-cut-while-compressed",
        make=with_structures(cut(compressed(partial(write_model, rows=SMALL)), 20)),
        says=("model.pdb.gz", "damaged or cut off", "Copy or download it again"),
    ),
    RejectedScore(
        id="model-cut-in-a-line",
        make=with_structures(cut(partial(write_model, rows=SMALL), 50)),
        says=("model.pdb", "line 5"),
    ),
    RejectedScore(id="model-empty", make=of_bytes(b""), says=("odd.pdb", "empty")),
    RejectedScore(id="web-page", make=of_bytes(WEB_PAGE), says=("odd.pdb", "web page")),
    RejectedScore(id="lfs-pointer", make=of_bytes(LFS_POINTER), says=("odd.pdb", "Git LFS")),
    RejectedScore(
        id="folder-as-a-structure",
        make=lambda build: [star_file(build), "-s", build.folder],
        says=("this is a folder, not a structure",),
    ),
    # Grids
    RejectedScore(
        id="box-differs",
        make=with_descriptor(write=plain_map, n_pixels=16),
        says=("12", "16", "box"),
    ),
    RejectedScore(
        id="pixel-size-differs",
        make=with_descriptor(write=plain_map, pixel_size=2.5),
        says=("2.5", "pixel size"),
    ),
    RejectedScore(
        id="converted-grid-differs",
        make=converted(other_descriptor, "--params", "params.npz"),
        says=("pixel size, Å: 4 of the templates, 2 of the images", "Leave --params out"),
        code=BAD_USAGE,
    ),
    # Rows and poses
    RejectedScore(
        id="no-rows-left",
        make=with_words("--rows", "7:9"),
        says=("No row is left of the 5",),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="local-without-poses",
        make=with_words("--local", "10"),
        says=("the set has no viewing directions", "Leave --local out"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="local-with-poses-of-zero",
        make=lambda build: [
            *(star_file(build, columns=_AROUND), "-s", plain_map(build), "--local", "9")
        ],
        says=("or all angles are zero",),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="local-beyond-the-box",
        make=lambda build: [
            star_file(
                build,
                columns={
                    "rlnAngleRot": [9, 9, 0, 9, 9],
                    "rlnAngleTilt": [9, 9, 0, 9, 9],
                    "rlnAnglePsi": [9, 9, 0, 9, 9],
                    "rlnOriginXAngst": [0, -10.5, 30, 9, 0],
                    "rlnOriginYAngst": [0, 0, 0, 10, 11],
                },
            ),
            *("-s", plain_map(build), "--local", "9"),
        ],
        says=("of 2 images goes beyond", "12 Å", "row 1: origin 10.5 Å", "row 4: origin 11 Å"),
    ),
    RejectedScore(
        id="pose-fields-of-another-kind",
        make=cryosparc(
            alignments3D__pose=np.zeros(4, "<f4"), alignments3D__shift=np.zeros((4, 2), "<i4")
        ),
        says=("particles.cs: alignments3D/pose is of type", "alignments3D/shift is of type"),
        n_problems=2,
    ),
    # Options
    RejectedScore(
        id="shifts-beyond-the-box",
        make=with_words("--shift-max", "7"),
        says=("±7 pixels go beyond the box", "smaller --shift-max"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="too-many-shifts",
        make=with_words("--shift-max", "4", "--shift-step", "0.001"),
        says=("64,016,001 shifts", "larger steps"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="too-many-views",
        make=with_words("--view-spacing", "0.001"),
        says=("4e+10 viewing directions", "larger --view-spacing"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="published-and-local",
        make=with_words("--published", "--local", "9"),
        says=("--published", "--local", "leave one out"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="device-unknown",
        make=with_words("--device", "abacus"),
        says=("'abacus'", "Use cpu, cuda"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="device-absent",
        make=with_words("--device", "cuda:99"),
        says=("'cuda:99'", "no such GPU"),
        code=BAD_USAGE,
    ),
    RejectedScore(
        id="descriptor-missing",
        make=with_words("--params", "absent.npz"),
        says=("absent.npz: no such descriptor file",),
    ),
    RejectedScore(
        id="options-of-metadata-for-a-converted-set",
        make=converted(
            lambda *_: None,
            *("--contrast", "invert", "--on-bad-row", "skip", "--downsample-type", "mean"),
            *("--accept-ctf-applied", "--seed", "3", "--class", "1"),
        ),
        says=(
            "--seed, --class, --on-bad-row, --accept-ctf-applied, --downsample-type, --contrast:",
            "Give the metadata file instead",
        ),
        code=BAD_USAGE,
    ),
    # Converted sets
    RejectedScore(
        id="converted-files-damaged",
        make=converted(damage_stacks),
        says=("2 files of the converted set", "000000.pt has", "000001.npz is missing", "--resume"),
    ),
    RejectedScore(
        id="converted-manifest-damaged", make=converted(damage_manifest), says=("manifest.json",)
    ),
    RejectedScore(
        id="converted-and-metadata-changed",
        make=converted(add_a_row),
        says=("particles.star had", "Convert the set anew"),
    ),
    RejectedScore(
        id="converted-and-metadata-gone",
        make=converted(lambda _, build: (build.folder / "particles.star").unlink()),
        says=("particles.star: there is no such file",),
    ),
    RejectedScore(
        id="folder-that-holds-no-set",
        make=lambda build: [build.folder, "-s", plain_map(build)],
        says=("holds no finished conversion",),
    ),
]

ACCEPTED = [
    OddScore(id="control", make=with_structures(plain_map)),
    OddScore(id="converted", make=converted()),
    OddScore(id="name-twice", make=same_name_twice),
    OddScore(id="model", make=of_model(SMALL)),
    OddScore(
        id="residues-unknown",
        make=of_model(model((0, 0, 0), (4, 0, 0), (0, 4, 1), residue="XYZ")),
        warns=("XYZ",),
    ),
    OddScore(
        id="map-of-other-voxels",
        make=of_map(blob(20, 3.0), 1.5),
        warns=("resampled to the images' box of 12 pixels of 2 Å",),
    ),
    OddScore(
        id="map-mostly-outside",
        make=of_map(outside(32) + 0.3 * blob(32)),
        warns=("of the map's power lies outside", "resampled"),
    ),
    OddScore(
        id="electrons-of-a-map",
        make=with_structures(plain_map, words=("--atoms", "electron")),
        warns=("electron scattering was asked for, but all structures are maps",),
    ),
    OddScore(
        id="some-rows",
        make=with_structures(plain_map, words=("--rows", "1:3")),
        warns=("3 rows of 5 of the scored set were not scored",),
    ),
    OddScore(
        id="some-rows-with-poses",
        make=lambda build: [
            *(star_file(build, columns={**_AROUND, "rlnOriginXAngst": 1, "rlnOriginYAngst": 0}),),
            *("-s", plain_map(build), "--random", "2"),
        ],
        warns=("3 rows of 5 of the scored set were not scored and keep the poses they had",),
    ),
]
