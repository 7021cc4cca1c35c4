"""STAR files whose values cannot be, or which name what is not there."""

from __future__ import annotations

from tests.builders import SetBuilder
from tests.hostile.cases import (
    Rejected,
    Source,
    star_source,
)
from tests.hostile.star_sets import (
    FIRST,
    LFS_POINTER,
    SECOND,
    edited,
    one_missing,
    stars,
    with_column,
    with_names,
    with_optics,
    without,
)

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import InputError, MissingFileError, UsageError


def many_missing(build: SetBuilder) -> Source:
    """Make a set of 34 stacks of 36 images, without 12 of them."""
    built = build.relion((36,) * 34, n_pixels=4)
    for stack in built.stacks[20:32]:
        stack.unlink()
    return star_source(built.path)


def moved(build: SetBuilder) -> Source:
    """Make a set whose stacks are beside the STAR file instead of in a folder there."""
    built = build.relion((3, 2))
    for stack in built.stacks:
        stack.rename(build.folder / stack.name)
    return star_source(built.path)


def link_to_nothing(build: SetBuilder) -> Source:
    """Make a set one of whose stacks is a link to a disk that is not there."""
    built = build.relion((3, 2))
    built.stacks[1].unlink()
    built.stacks[1].symlink_to("/mnt/elsewhere/stack_01.mrcs")
    return star_source(built.path)


def folder_for_stack(build: SetBuilder) -> Source:
    """Make a set with a folder in place of a stack."""
    built = build.relion((3, 2))
    built.stacks[1].unlink()
    built.stacks[1].mkdir()
    return star_source(built.path)


def same_names(build: SetBuilder) -> Source:
    """Make a set of two stacks of one file name, in two folders."""
    for folder in ("job012", "job030"):
        build.stack(f"{folder}/a.mrcs", build.noise(1))
    build.stack("all/a.mrcs", build.noise(1))
    return star_source(build.star(["1@job012/a.mrcs", "1@job030/a.mrcs"]))


def two_boxes(build: SetBuilder) -> Source:
    """Make a set of which one stack has another box."""
    built = build.relion((3, 2))
    build.stack(SECOND, build.noise(2, 8))
    return star_source(built.path)


def malformed_and_more(build: SetBuilder) -> Source:
    """Make a set without one of its stacks, with a short row, a stray line and other faults."""
    make = edited(
        (f"000002@{FIRST} 1 10010.0 9510.0 3.0 0.5", f"000002@{FIRST} 1 100"),
        (f"000003@{FIRST} 1", f"000003@{FIRST} 7"),
        (f"000001@{SECOND} 1 10030.0", f"9\n000001@{SECOND} 1 nan"),
    )
    source = make(build)
    (build.folder / SECOND).unlink()
    return source


def all_at_once(build: SetBuilder) -> Source:
    """Make a set of 15 rows, of which only the last one is good, and no two bad in one way."""
    build.stack("good.mrcs", build.noise(4))
    cut = build.stack("cut.mrcs", build.noise(2))
    cut.write_bytes(cut.read_bytes()[:-100])
    build.stack("wide.mrcs", build.noise(1, 10))
    (build.folder / "text.mrcs").write_bytes(LFS_POINTER)
    names = ["1@good.mrcs", "2@good.mrcs", "3@good.mrcs", "4@good.mrcs", "5@good.mrcs"]
    names += ["0@good.mrcs", "x@good.mrcs", "1@gone.mrcs", "1@cut.mrcs", "1@wide.mrcs"]
    names += ["1@text.mrcs", "1@good.mrcs", "2@good.mrcs", "3@good.mrcs"]
    names += ["4@good.mrcs"]
    n = len(names)
    return star_source(
        build.star(
            names,
            columns={
                "rlnVoltage": [300000, *[300] * (n - 1)],
                "rlnDefocusU": [12000, "nan", "abc", *[12000] * (n - 3)],
                "rlnAmplitudeContrast": [*[0.1] * 3, 7, *[0.1] * (n - 4)],
                "rlnSphericalAberration": [*[2.7] * (n - 4), 2.7e7, *[2.7] * 3],
                "rlnOpticsGroup": [*[1] * (n - 3), 7, 1, 1],
                "rlnImagePixelSize": [*[2.0] * (n - 2), 3.5, 2.0],
            },
        )
    )


REJECTED = [
    # Columns and rows
    Rejected(
        id="12-no-voltage",
        make=without("rlnVoltage"),
        says=("particles.star", "required fields are missing: rlnVoltage", "rlnImagePixelSize"),
        remedy="data_optics",
    ),
    Rejected(
        id="12-no-ctf-at-all",
        make=without("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnSphericalAberration"),
        says=("rlnDefocusU, rlnDefocusV, rlnDefocusAngle, rlnSphericalAberration",),
        remedy="came after CTF estimation",
    ),
    Rejected(
        id="11-group-not-defined",
        make=with_column("rlnOpticsGroup", 1, 7, 1, 7, 8),
        says=(
            "particles.star: optics group 7 is not in data_optics (2 of 5 rows)",
            "row 1 (line 22)",
            "optics group 8 is not in data_optics (1 of 5 rows)",
        ),
        remedy="Add the group to data_optics",
        n_problems=2,
    ),
    Rejected(
        id="62-nan-in-defocus",
        make=with_column("rlnDefocusU", 12000, "nan", 12000, "NaN", 12000),
        says=("particles.star", "2 of 5 rows", "row 1 (line 22): 'nan'", "row 3 (line 24): 'NaN'"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="62-infinite-defocus",
        make=with_column("rlnDefocusV", 12000, "inf", "-inf", "1e400", 12000),
        says=("particles.star: rlnDefocusV", "3 of 5 rows", "row 3 (line 24): '1e400'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="62-text-in-the-angle",
        make=with_column("rlnDefocusAngle", 1, 2, "abc", "None", "12,5"),
        says=("particles.star: rlnDefocusAngle", "3 of 5 rows", "row 4 (line 25): '12,5'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="62-empty-value",
        make=with_column("rlnPhaseShift", 1, '""', 1, 1, 1),
        says=("particles.star: rlnPhaseShift", "1 of 5 rows", "row 1 (line 22): ''"),
        remedy="Correct the file",
    ),
    Rejected(
        id="62-nan-in-the-optics-table",
        make=with_optics(SphericalAberration="nan"),
        says=("rlnSphericalAberration", "5 of 5 rows", "'nan' (data_optics, line 10)"),
        remedy="Correct the file",
    ),
    Rejected(
        id="62-nan-in-bfactor",
        make=with_column("rlnCtfBfactor", 0, 0, 0, 0, "nan"),
        says=("particles.star: rlnCtfBfactor", "1 of 5 rows", "row 4 (line 26): 'nan'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="68-voltage-in-volts",
        make=with_optics(Voltage=300000),
        says=("rlnVoltage is outside 10 to 1,500 kV (5 of 5 rows)", "'300000' (data_optics"),
        remedy="Voltages are in kV",
    ),
    Rejected(
        id="68-voltage-zero",
        make=with_optics(Voltage=0),
        says=("rlnVoltage is outside 10 to 1,500 kV", "line 10", "'0'"),
        remedy="Voltages are in kV",
    ),
    Rejected(
        id="51-contrast-in-percent",
        make=with_optics(AmplitudeContrast=7),
        says=("rlnAmplitudeContrast is outside 0 to 1 (5 of 5 rows)", "'7'", "line 10"),
        remedy="It is a fraction",
    ),
    Rejected(
        id="51-contrast-negative",
        make=with_column("rlnAmplitudeContrast", 0.1, 0.1, -0.07, 0.1, 0.1),
        says=("rlnAmplitudeContrast is outside 0 to 1 (1 of 5", "row 2 (line 24): '-0.07'"),
        remedy="It is a fraction",
    ),
    Rejected(
        id="49-defocus-in-micrometres",
        make=lambda build: stars(build, columns={"rlnDefocusU": 1.2, "rlnDefocusV": 1.1}),
        says=("particles.star", "rlnDefocusU and rlnDefocusV", "below 50 Å (largest 1.2): µm?"),
        remedy="Give defocus in Å.",
    ),
    Rejected(
        id="49-defocus-far-too-large",
        make=with_column("rlnDefocusU", 12000, 12000, 1.2e9, 12000, 12000),
        says=("rlnDefocusU is outside ±1,000,000 Å (1 of 5 rows)", "row 2 (line 23): '1200000000"),
        remedy="Defocus is in Å",
    ),
    Rejected(
        id="69-cs-in-angstrom",
        make=with_optics(SphericalAberration=2.7e7),
        says=("rlnSphericalAberration is outside ±100 mm (5 of 5 rows)", "'27000000.0'"),
        remedy="Cs is in mm",
    ),
    Rejected(
        id="49-ctf-zero-everywhere",
        make=lambda build: stars(
            build,
            columns={"rlnDefocusU": 0, "rlnDefocusV": 0, "rlnPhaseShift": 0},
            optics={"rlnSphericalAberration": [0], "rlnAmplitudeContrast": [0]},
        ),
        says=("particles.star", "the CTF is zero everywhere (5 of 5 rows)", "row 0 (line 21)"),
        remedy="Estimate the CTF",
    ),
    Rejected(
        id="55-premultiplied",
        make=with_optics(CtfDataAreCtfPremultiplied=1),
        says=("rlnCtfDataAreCtfPremultiplied", "5 of 5 rows", "row 0 (line 22)"),
        remedy="--accept-ctf-applied",
    ),
    Rejected(
        id="55-phase-flipped",
        make=with_column("rlnCtfDataArePhaseFlipped", 0, 0, 1, 0, 0),
        says=("rlnCtfDataArePhaseFlipped", "1 of 5 rows", "row 2 (line 24)"),
        remedy="--accept-ctf-applied",
    ),
    # Image names
    Rejected(
        id="43-image-zero",
        make=with_names(f"000000@{FIRST}", f"000001@{FIRST}"),
        says=(
            "particles.star",
            "image number 0 (1 of 2 rows)",
            f"row 0 (line 21): '000000@{FIRST}",
        ),
        remedy="RELION counts images from 1",
    ),
    Rejected(
        id="43-image-zero-in-a-folder-given",
        make=with_names(f"0@{FIRST}", f"1@{FIRST}"),
        options={"folder": "Particles"},
        says=("particles.star", "image number 0 (1 of 2 rows)", f"row 0 (line 21): '0@{FIRST}'"),
        remedy="RELION counts images from 1",
    ),
    Rejected(
        id="43-image-past-the-end",
        make=with_names(f"3@{FIRST}", f"4@{FIRST}", f"512@{SECOND}"),
        says=(
            "particles.star",
            "2 of 3 rows",
            f"row 1: image 4 of {FIRST}, which has 3",
            f"row 2: image 512 of {SECOND}, which has 2",
        ),
        remedy="Was the stack extracted again",
    ),
    Rejected(
        id="43-image-negative",
        make=with_names(f"1@{FIRST}", f"-1@{FIRST}"),
        says=("particles.star", "1 of 2 rows", f"row 1 (line 22): '-1@{FIRST}'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="43-image-number-beyond-any",
        make=with_names(f"1@{FIRST}", f"{2**64}@{FIRST}"),
        says=("particles.star", "1 of 2 rows", f"row 1 (line 22): '{2**64}@{FIRST}'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="14-names-that-are-none",
        make=with_names(f"1@{FIRST}", "1@", f"x@{FIRST}", f"1.5@{FIRST}", f"@{FIRST}"),
        says=("particles.star", "4 of 5 rows", "row 1 (line 22): '1@'", f"'@{FIRST}'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="14-stack-without-a-number",
        make=with_names(FIRST),
        says=("particles.star", "1 of 1 rows", f"row 0: {FIRST}, which has 3 images"),
        remedy="Write NUMBER@STACK",
    ),
    # Stacks
    Rejected(
        id="6-stack-missing",
        make=one_missing,
        error=MissingFileError,
        says=("particles.star: 1 of 2 files not found (2 of 5 rows)", SECOND, "working directory"),
        remedy="--folder",
    ),
    Rejected(
        id="6-many-stacks-missing",
        make=many_missing,
        error=MissingFileError,
        says=(
            "particles.star: 12 of 34 files not found (432 of 1,224 rows)",
            "Particles/stack_14.mrcs",
            "Particles/stack_05.mrcs",
            "… and 2 more",
            "(in the working directory,",
            "and the folders above)",
        ),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="6-stack-not-in-the-folder-given",
        make=one_missing,
        error=MissingFileError,
        options={"folder": "Particles"},
        says=("1 of 2 files not found (2 of 5 rows)", "Particles/stack_01.mrcs"),
        remedy="Correct the folder given (--folder)",
    ),
    Rejected(
        id="44-stacks-elsewhere",
        make=moved,
        error=MissingFileError,
        says=("2 of 2 files not found (5 of 5 rows)", "holds a file named stack_02.mrcs"),
        remedy="is that the folder to give?",
    ),
    Rejected(
        id="folder-given-is-a-file",
        make=stars,
        error=MissingFileError,
        options={"folder": "particles.star"},
        says=("the folder given for the stacks, particles.star, is not a folder",),
        remedy="leave it out to use the paths in the metadata",
    ),
    Rejected(
        id="folder-given-does-not-exist",
        make=stars,
        error=MissingFileError,
        options={"folder": "/nowhere/at/all"},
        says=("the folder given for the stacks, /nowhere/at/all, does not exist",),
        remedy="leave it out to use the paths in the metadata",
    ),
    Rejected(
        id="5-one-name-in-two-folders",
        make=same_names,
        options={"folder": "all"},
        says=("particles.star", "job012/a.mrcs and job030/a.mrcs", "does not tell which is meant"),
        remedy="Keep their folders below",
    ),
    Rejected(
        id="27-link-to-nothing",
        make=link_to_nothing,
        error=MissingFileError,
        says=(
            "1 of 2 files",
            "symbolic link to /mnt/elsewhere/stack_01.mrcs, which does not exist",
        ),
        remedy="--folder",
    ),
    Rejected(
        id="folder-for-a-stack",
        make=folder_for_stack,
        error=MissingFileError,
        says=("1 of 2 files not found (2 of 5 rows)", SECOND),
        remedy="--folder",
    ),
    # Boxes and pixel sizes
    Rejected(
        id="65-boxes-differ",
        make=two_boxes,
        says=("8×8 pixels, those of most rows 12×12 (2 of 5 rows)", "stack_01.mrcs (8×8 pixels)"),
        remedy="Convert images of different boxes separately",
    ),
    Rejected(
        id="65-box-is-not-the-descriptors",
        make=stars,
        descriptor=ImageDescriptor.from_individual_values(10, 2.0),
        says=("12×12 pixels, the descriptor says 10×10 (5 of 5 rows)",),
        remedy="describe --n-pixels 12",
    ),
    Rejected(
        id="2-pixel-sizes-differ",
        make=with_column("rlnImagePixelSize", 2.0, 2.0, 2.2, 2.0, 2.4),
        says=(
            "pixel size is 2.2 Å (rlnImagePixelSize), but that of most rows is 2 Å (1 of 5 rows)",
            f"row 2: 000003@{FIRST}",
            "pixel size is 2.4 Å",
            f"row 4: 000002@{SECOND}",
        ),
        remedy="convert different pixel sizes separately",
        n_problems=2,
    ),
    Rejected(
        id="41-pixel-size-is-not-the-descriptors",
        make=stars,
        descriptor=ImageDescriptor.from_individual_values(12, 2.1),
        says=("pixel size is 2 Å (rlnImagePixelSize)", "the descriptor says 2.1 Å", "5 of 5 rows"),
        remedy="Correct what is wrong",
    ),
    Rejected(
        id="41-pixel-size-given-is-not-the-files",
        make=stars,
        options={"pixel_size_A": 1.0},
        says=("pixel size is 2 Å (rlnImagePixelSize)", "the pixel size given says 1 Å"),
        remedy="Correct what is wrong",
    ),
    Rejected(
        id="41-pixel-size-given-is-not-the-descriptors",
        make=without("rlnImagePixelSize"),
        options={"pixel_size_A": 1.0},
        descriptor=ImageDescriptor.from_individual_values(12, 2.0),
        error=UsageError,
        says=("pixel_size is 1 Å", "the descriptor says 2 Å"),
        remedy="Make a descriptor with that pixel size",
    ),
    Rejected(
        id="79-pixel-size-zero",
        make=with_optics(ImagePixelSize=0),
        says=("rlnImagePixelSize is outside 0.001 to 1,000 Å (5 of 5 rows)", "'0'", "line 10"),
        remedy="Pixel sizes are in Å",
    ),
    Rejected(
        id="79-pixel-size-nan",
        make=with_column("rlnImagePixelSize", 2.0, "nan", 2.0, 2.0, 2.0),
        says=("rlnImagePixelSize is not a finite number (1 of 5 rows)", "row 1 (line 23): 'nan'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="45-magnification-zero",
        make=lambda build: stars(
            build,
            optics={"rlnDetectorPixelSize": [14], "rlnMagnification": [0]},
            without=["rlnImagePixelSize"],
        ),
        says=("10000·rlnDetectorPixelSize/rlnMagnification", "'14'", "/ '0'"),
        remedy="Correct the file",
    ),
    Rejected(
        id="79-no-pixel-size-anywhere",
        make=without("rlnImagePixelSize"),
        error=UsageError,
        says=("particles.star", "neither the metadata nor the headers of the stacks"),
        remedy="--pixel-size",
    ),
    Rejected(
        id="15-factor-does-not-divide-the-box",
        make=stars,
        options={"downsample_factor": 5},
        error=UsageError,
        says=("downsample_factor 5 does not divide the box of 12",),
        remedy="these do: 1, 2, 3, 4, 6",
    ),
    Rejected(
        id="factor-and-files-both-wrong",
        make=one_missing,
        options={"downsample_factor": 5},
        error=InputError,
        says=("downsample_factor 5 does not divide the box of 12", "1 of 2 files not found"),
        remedy="these do: 1, 2, 3, 4, 6",
        n_problems=2,
    ),
    # Everything
    Rejected(
        id="58-malformed-rows-among-other-faults",
        make=malformed_and_more,
        error=InputError,
        says=(
            "data_particles has 6 labels, but another number of values in 2 of 6 rows",
            "line 22: 3 values, expected 6",
            "line 24: 1 value, expected 6: '9'",
            "optics group 7 is not in data_optics (1 of 4 rows)",
            "row 2 (line 23)",
            "rlnDefocusU is not a finite number (1 of 4 rows)",
            "row 4 (line 25): 'nan'",
            "1 of 2 files not found (2 of 6 rows)",
        ),
        remedy="leave them out with --on-bad-row skip",
        n_problems=4,
    ),
    Rejected(
        id="all-at-once",
        make=all_at_once,
        error=InputError,
        says=(
            "rlnVoltage is outside 10 to 1,500 kV (1 of 15 rows)",
            "'300000'",
            "rlnDefocusU is not a finite number (2 of 15 rows)",
            "rlnAmplitudeContrast is outside 0 to 1 (1 of 15 rows)",
            "rlnSphericalAberration is outside ±100 mm (1 of 15 rows)",
            "optics group 7 is not in data_optics (1 of 15 rows)",
            "image number 0 (1 of 15 rows)",
            "NUMBER@STACK (1 of 15 rows)",
            "past the end of their stack (1 of 15 rows)",
            "row 4: image 5 of good.mrcs, which has 4",
            "1 of 5 files not found (1 of 15 rows)",
            "cut.mrcs: is cut off",
            "text.mrcs: is a Git LFS pointer",
            "10×10 pixels, those of most rows 12×12 (1 of 15 rows)",
            "pixel size is 3.5 Å",
        ),
        remedy="Was the stack extracted again",
        n_problems=13,
    ),
]
