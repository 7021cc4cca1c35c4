""".cs files that are odd, but convert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Accepted,
    Make,
    Source,
    cryosparc_source,
)
from tests.hostile.cryosparc_sets import (
    NAMES,
    NUMBERS,
    entry,
    fields,
    good,
    only,
    put_stacks,
    records,
    save,
    single,
    split,
    without,
)


def plain(build: SetBuilder) -> Source:
    """Make the set of `good`."""
    return cryosparc_source(good(build))


def odd(id: str, make: Make, *, warns: Sequence[str] = (), notes: Sequence[str] = ()) -> Accepted:
    """Odd set whose images are those of the plain one."""
    return Accepted(id=id, make=make, warns=tuple(warns), notes=tuple(notes), same_as=plain)


def renamed(old: str, new: str) -> Make:
    """Make the set of `good` with another name of a field."""

    def make(build: SetBuilder) -> Source:
        path = good(build)
        rows = records(path)
        rows.dtype.names = tuple(new if name == old else name for name in rows.dtype.names or ())
        return cryosparc_source(save(path, rows))

    return make


def exported(build: SetBuilder) -> Source:
    """Make the set with paths marked by '>', and other stacks of those names in the way."""
    put_stacks(build)
    for name in set(NAMES):
        build.stack(f"J7/{name}", np.ones((5, 8, 8), dtype=np.float32))
    return cryosparc_source(build.cryosparc([f">{name}" for name in NAMES], NUMBERS))


def below_the_project(build: SetBuilder) -> Source:
    """Make the set with its .cs file in a job's folder, paths being relative to the project."""
    path = good(build)
    (build.folder / "J30").mkdir()
    path.rename(build.folder / "J30/particles.cs")
    return cryosparc_source(build.folder / "J30/particles.cs")


def links(build: SetBuilder) -> Source:
    """Make the set with links for stacks, as import jobs do."""
    path = good(build)
    disk = build.folder.parent / "disk"
    disk.mkdir()
    for name in sorted(set(NAMES)):
        stack = build.folder / name
        stack.rename(disk / stack.name)
        stack.symlink_to(disk / stack.name)
    return cryosparc_source(path)


def many_fields(build: SetBuilder) -> Source:
    """Make the set with 300 fields more, as jobs of many classes write."""
    classes = {
        f"alignments_class_{i}__{name}": np.zeros(5, dtype=np.float32)
        for i in range(50)
        for name in ("alpha", "cross_cor", "error", "psize_A", "scale", "sigma_scale")
    }
    return cryosparc_source(good(build, **classes))


def given_passthrough(build: SetBuilder) -> Source:
    """Make the set of `split`, and name its passthrough file."""
    return cryosparc_source(*split(build))


def found_passthrough(build: SetBuilder) -> Source:
    """Make the set of `split`, its passthrough file beside it under cryoSPARC's name."""
    path, passthrough = split(build)
    passthrough.rename(build.folder / "J4_passthrough_particles.cs")
    return cryosparc_source(path)


def voltage_twice(build: SetBuilder) -> Source:
    """Make the set with a passthrough file that gives two rows another voltage."""
    path = good(build)
    rows = only(records(path), ["uid", "ctf/accel_kv"])
    rows["ctf/accel_kv"][:2] = 200
    return cryosparc_source(path, save(build.folder / "other.cs", rows))


def whole_group(build: SetBuilder) -> Source:
    """Make the set of `split` with a result group that lists both files."""
    split(build)
    path = build.folder / "particles.csg"
    path.write_text(f"results:\n{entry('blob', 'particles.cs')}{entry('ctf', 'passthrough.cs')}")
    return cryosparc_source(path)


ACCEPTED = [
    odd("control", plain),
    odd("20-group", whole_group),
    odd("22-passthrough-in-another-order", given_passthrough),
    odd(
        "22-passthrough-beside-it",
        found_passthrough,
        warns=["missing in particles.cs: taken from J4_passthrough_particles.cs, joined by uid"],
    ),
    odd(
        "22-a-field-in-both-files",
        voltage_twice,
        warns=["ctf/accel_kv differs between particles.cs and other.cs in 2 of 5 rows"],
    ),
    odd("1-old-name-of-the-contrast", renamed("ctf/amp_contrast", "ctf/ac")),
    odd("1-misspelt-name-of-the-contrast", renamed("ctf/amp_contrast", "ctf/amp_constrast")),
    odd(
        "1-contrast-and-phase-shift-missing",
        without("ctf/amp_contrast", "ctf/phase_shift_rad"),
        warns=["amp_contrast is missing: 0.1 used", "phase_shift_rad is missing: 0 used"],
    ),
    odd(
        "23-uid-twice",
        fields(uid=np.array([7, 7, 8, 9, 7], dtype=np.uint64)),
        warns=["2 of 5 rows repeat the uid of an earlier row"],
    ),
    odd("no-uids", without("uid")),
    odd("19-many-fields", many_fields),
    odd("25-exported", exported),
    odd("26-paths-relative-to-the-project", below_the_project),
    odd("27-links", links),
    odd("28-paths-as-text", fields(blob__path=np.array(NAMES))),
    odd("28-paths-padded", fields(blob__path=np.array([f"{n} ".encode() for n in NAMES], "S60"))),
    odd("30-sign-of-one", fields(blob__sign=single([1] * 5))),
    odd("36-angles-not-wrapped", fields(ctf__df_angle_rad=single([4.69, -1.55, 0, 6.2, -6.2]))),
    odd(
        "36-angles-in-degrees",
        fields(ctf__df_angle_rad=single([45, 90, 135, 170, 10])),
        warns=["ctf/df_angle_rad looks like degrees: beyond ±4π in 4 of 5 rows"],
    ),
    odd("37-groups-from-zero", fields(ctf__exp_group_id=np.zeros(5, dtype=np.uint32))),
    odd(
        "34-anisotropic-magnification",
        fields(ctf__anisomag=np.array([[0.02, 0, 0, 0]] * 5, dtype=np.float32)),
        warns=["ctf/anisomag (anisotropic magnification, at most 2 %) is not zero in 5 of 5 rows"],
    ),
    odd("34-no-anisotropic-magnification", fields(ctf__anisomag=np.zeros((5, 4), np.float32))),
    odd(
        "35-beam-tilt",
        fields(ctf__tilt_A=np.array([[0, 0], [0, 250], [0, 0], [9, 0], [0, 0]], np.float32)),
        warns=["ctf/tilt_A (beam tilt, at most 250 Å) is not zero in 2 of 5 rows: ignored"],
    ),
    odd(
        "12-bfactor",
        fields(ctf__bfactor=single([0, 0, 50, 0, 0])),
        warns=["ctf/bfactor is not 0 in 1 of 5 rows: ignored"],
    ),
    odd(
        "65-shape-wrong",
        fields(blob__shape=np.array([[64, 64]] * 5, dtype=np.uint32)),
        warns=["image size differs from the stack's in 5 of 5 rows"],
    ),
    odd(
        "32-poses-of-several-groups",
        fields(
            alignments3D__pose=np.ones((5, 3), np.float32),
            alignments_class_1__pose=np.ones((5, 3), np.float32),
        ),
        notes=["Poses (alignments_class_1) are not read."],
    ),
    Accepted(
        id="92-image-named-twice",
        make=fields(blob__idx=np.array([0, 0, 0, 0, 1], dtype=np.uint32)),
        notes=("2 rows repeat an image",),
    ),
]
