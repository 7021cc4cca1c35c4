"""cryoSPARC ``.cs`` files made at random, with what they mean."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from cryolike.testing.meaning import Meaning

__all__ = ["CsFile", "make_cs_file", "npy_bytes"]

_CTF: dict[str, tuple[str, float, float]] = {
    "ctf/df1_A": ("defocus_u_A", 2_000, 40_000),
    "ctf/df2_A": ("defocus_v_A", 2_000, 40_000),
    "ctf/df_angle_rad": ("defocus_angle_rad", -3, 3),
    "ctf/cs_mm": ("spherical_aberration_mm", 0.01, 5),
    "ctf/accel_kv": ("voltage_kV", 60, 400),
}
_NOT_READ: dict[str, tuple[str, tuple[int, ...]]] = {
    "ctf/type": ("S", ()),
    "ctf/bfactor": ("f4", ()),
    "ctf/scale": ("f4", ()),
    "ctf/shift_A": ("f4", (2,)),
    "ctf/tilt_A": ("f4", (2,)),
    "ctf/trefoil_A": ("f4", (2,)),
    "ctf/tetra_A": ("f4", (4,)),
    "ctf/anisomag": ("f4", (4,)),
    "alignments2D/pose": ("f4", ()),
    "alignments_class_0/pose": ("f4", (3,)),
    "alignments_class_0/shift": ("f4", (2,)),
    "location/micrograph_path": ("S", ()),
    "location/exp_group_id": ("u4", ()),
    "blob/import_sig": ("u8", ()),
    "filament/curvature": ("f8", ()),
}
_NAMES = (">J3/imported/a.mrc", "J12/extract/b.mrc", "x y.mrcs", "é\xa0.mrc", "J1/caf\udce9.mrc")

_ALIGNMENT = 64
"""Headers of NumPy files are filled up with blanks to a multiple of this many bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CsFile:
    """A .cs file, perhaps with a passthrough file beside it, and what they mean.

    Parameters
    ----------
    content
        The file.
    passthrough
        The other file; empty where there is none.
    meaning
        Of the rows.
    """

    content: bytes = field(repr=False)
    passthrough: bytes = field(default=b"", repr=False)
    meaning: Meaning

    def __repr__(self) -> str:
        return f"CsFile(content={self.content!r}, passthrough={self.passthrough!r})"

    def write(self, path: Path) -> Path:
        """Write the file and, beside it, its passthrough file; return the path of the first."""
        path.write_bytes(self.content)
        if self.passthrough:
            self.passthrough_path(path).write_bytes(self.passthrough)
        return path

    @staticmethod
    def passthrough_path(path: Path) -> Path:
        """Say where the passthrough file of a .cs file is written."""
        return path.with_name(f"{path.stem}_passthrough.cs")


def make_cs_file(
    random: Random,
    *,
    stacks: Mapping[str, int] | None = None,
    n_rows: int | None = None,
    pixel_size_A: float | None = None,
    whole_groups: bool = False,
) -> CsFile:
    """Make a valid .cs file of particles, in any of the ways that versions of cryoSPARC write one.

    Parameters
    ----------
    random
        Decides everything else.
    stacks
        Names of the stacks and how many images each has, for rows to choose from; made up by
        default.
    n_rows
        How many rows; a few by default.
    pixel_size_A
        Pixel size of all images; any, different ones, or none by default.
    whole_groups
        Never divide the fields of one group, such as ``ctf``, between file and passthrough file.

    Returns
    -------
    CsFile
        Reading it finds no problems.
    """
    maker = _CsMaker(random, random.randint(1, 6) if n_rows is None else n_rows)
    names = maker.images(stacks)
    maker.ctf()
    maker.others(pixel_size_A)
    maker.poses()
    content, passthrough = maker.files(whole_groups=whole_groups)
    return CsFile(
        content=content,
        passthrough=passthrough,
        meaning=Meaning(image_names=names, columns=maker.columns),
    )


class _CsMaker:
    def __init__(self, random: Random, n_rows: int) -> None:
        self.random, self.n_rows = random, n_rows
        self.fields: dict[str, np.ndarray] = {}
        self.columns: dict[str, np.ndarray] = {}

    def images(self, stacks: Mapping[str, int] | None) -> tuple[tuple[str, int], ...]:
        """Name the images; identify the rows by uid."""
        random, n_rows = self.random, self.n_rows
        made_up = random.sample(_NAMES, random.randint(1, 3))
        known = dict.fromkeys(made_up, 1_000_000) if stacks is None else stacks
        names = [random.choice(list(known)) for _ in range(n_rows)]
        images = [random.choice((row, 0, 7, 999_999)) % known[names[row]] for row in range(n_rows)]
        raw = [name.encode("utf-8", "surrogateescape") for name in names]
        length = max(map(len, raw)) + random.choice((0, 0, 1, 20))
        is_wide = not any("\udc80" <= c <= "\udcff" for c in "".join(names))
        if is_wide and random.random() < 0.2:
            self.fields["blob/path"] = np.array(names, dtype=self.order() + "U" + str(length))
        else:
            self.fields["blob/path"] = np.array(raw, dtype=f"S{length}")
        integer = random.choice(("u4", "u4", "i4", "i8", "u8"))
        self.fields["blob/idx"] = np.array(images, dtype=self.order() + integer)
        if random.random() < 0.8:
            uid = [random.getrandbits(64) for _ in range(n_rows)]
            self.fields["uid"] = np.array(uid, dtype=self.order() + "u8")
            self.columns["uid"] = np.array(uid, dtype=np.uint64)
        return tuple(zip(names, images, strict=True))

    def ctf(self) -> None:
        """Add what the CTF needs."""
        random = self.random
        for name, (column, low, high) in _CTF.items():
            self.number(name, column, low, high)
        for column, default, names, high in (
            ("phase_shift_rad", 0.0, ("ctf/phase_shift_rad",), 3.0),
            ("amplitude_contrast", 0.1, ("ctf/amp_contrast", "ctf/ac", "ctf/amp_constrast"), 0.9),
        ):
            if random.random() < 0.7:
                self.number(random.choice(names), column, 0.01, high)
            else:
                self.columns[column] = np.full(self.n_rows, default)
        self.columns["ctf_bfactor_A2"] = np.zeros(self.n_rows)
        self.columns["ctf_scale"] = np.ones(self.n_rows)

    def number(self, name: str, column: str, low: float, high: float) -> None:
        """Add a field of numbers that the table has too."""
        random = self.random
        is_same = random.random() < 0.3
        first = random.uniform(low, high)
        values = [first if is_same else random.uniform(low, high) for _ in range(self.n_rows)]
        of_type = random.choice(("f4", "f4", "f4", "f8"))
        self.fields[name] = np.array(values, dtype=self.order() + of_type)
        self.columns[column] = np.array(values, dtype=of_type).astype(np.float64)

    def others(self, pixel_size_A: float | None) -> None:
        """Add fields that may be absent, and such that are not read."""
        random, n_rows = self.random, self.n_rows
        if pixel_size_A is not None:
            self.number("blob/psize_A", "pixel_size_A", pixel_size_A, pixel_size_A)
        elif random.random() < 0.8:
            self.number("blob/psize_A", "pixel_size_A", 0.5, 10)
        else:
            self.columns["pixel_size_A"] = np.full(n_rows, np.nan)
        if random.random() < 0.5:
            signs = [random.choice((-1, 1)) for _ in range(n_rows)]
            self.fields["blob/sign"] = np.array(signs, dtype=random.choice(("f4", "i4")))
            self.columns["contrast_sign"] = np.array(signs, dtype=np.float64)
        if random.random() < 0.5:
            boxes = [random.randint(1, 1024) for _ in range(n_rows)]
            self.fields["blob/shape"] = np.array([(b, b) for b in boxes], dtype=self.order() + "u4")
            self.columns["box_px"] = np.array(boxes)
        for name, column in (
            (random.choice(("alignments3D/class", "alignments2D/class")), "class_label"),
            ("ctf/exp_group_id", "optics_group"),
        ):
            if random.random() < 0.4:
                labels = [random.randint(0, 300) for _ in range(n_rows)]
                self.fields[name] = np.array(labels, dtype=self.order() + "u4")
                self.columns[column] = np.array([str(label) for label in labels])
        for name in random.sample(list(_NOT_READ), random.randint(0, 4)):
            code, shape = _NOT_READ[name]
            values: Any = np.full((n_rows, *shape), random.choice((0, 1)))
            self.fields[name] = values.astype("S4" if code == "S" else self.order() + code)

    def poses(self) -> None:
        """Add orientations and shifts, or one of them, or none."""
        random, n_rows = self.random, self.n_rows
        if random.random() < 0.4:
            # Away from zero, where no relative precision could be asked for
            angles = [[random.uniform(0.8, 2.3) for _ in range(3)] for _ in range(n_rows)]
            vectors = Rotation.from_euler("ZYZ", angles).as_rotvec()
            written = vectors.astype(self.order() + random.choice(("f4", "f8")))
            self.fields["alignments3D/pose"] = written
            read = Rotation.from_rotvec(written.astype(np.float64)).as_euler("ZYZ")
            self.columns |= zip(("rot_rad", "tilt_rad", "psi_rad"), read.T, strict=True)
        if random.random() < 0.4:
            self.shifts()

    def shifts(self) -> None:
        """Add shifts, in pixels of their own or of the images, if these are known."""
        random, n_rows = self.random, self.n_rows
        shifts = [[random.uniform(-9, 9) for _ in range(2)] for _ in range(n_rows)]
        written = np.array(shifts, dtype=self.order() + "f4")
        self.fields["alignments3D/shift"] = written
        sizes_A = self.columns["pixel_size_A"]
        if random.random() < 0.6:
            sizes_A = np.array([random.choice((0.5, 2.0, 4.25)) for _ in range(n_rows)])
            self.fields["alignments3D/psize_A"] = sizes_A.astype(self.order() + "f4")
        if np.isfinite(sizes_A).all():
            origins_A = written * sizes_A[:, None]
            self.columns |= zip(("origin_x_A", "origin_y_A"), origins_A.T, strict=True)

    def order(self) -> str:
        """Choose a byte order."""
        return self.random.choice("<<<>")

    def files(self, *, whole_groups: bool) -> tuple[bytes, bytes]:
        """Write the fields, some of them perhaps to a passthrough file in another row order."""
        random, names = self.random, list(self.fields)
        random.shuffle(names)
        if "uid" not in names or random.random() < 0.6:
            return self.file(names, range(self.n_rows)), b""
        if whole_groups:
            moved = {name for name in names if name.startswith("ctf/")}
        else:
            moved = {name for name in names if name != "uid" and random.random() < 0.5}
            moved.add("ctf/cs_mm")  # one that is required, else nothing is looked for
        rows = random.sample(range(self.n_rows), self.n_rows)
        return (
            self.file([name for name in names if name not in moved], range(self.n_rows)),
            self.file(["uid", *(name for name in names if name in moved)], rows),
        )

    def file(self, names: list[str], rows: Any) -> bytes:
        columns = [self.fields[name][list(rows)] for name in names]
        descr = [
            (name, c.dtype.str, *([c.shape[1:]] if c.ndim > 1 else []))
            for name, c in zip(names, columns, strict=True)
        ]
        dtype = np.dtype(descr)
        records = np.zeros(len(list(rows)), dtype)
        for name, column in zip(names, columns, strict=True):
            records[name] = column
        header = {"descr": descr, "fortran_order": False, "shape": (len(records),)}
        return npy_bytes(repr(header), records.tobytes(), version=self.random.choice((1, 1, 2, 3)))


def npy_bytes(header: str, data: bytes, *, version: int = 1) -> bytes:
    """Write a NumPy file by its specification, whatever its header says.

    Parameters
    ----------
    header
        Text of the dictionary.
    data
        What follows it.
    version
        1, 2 or 3: the length of the header has two bytes in version 1, else four.

    Returns
    -------
    bytes
        The file.
    """
    text = header.encode("utf-8" if version == 3 else "latin-1", "replace")
    n_length = 2 if version == 1 else 4
    text += b" " * (-(8 + n_length + len(text) + 1) % _ALIGNMENT) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text) % 256**n_length)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data
