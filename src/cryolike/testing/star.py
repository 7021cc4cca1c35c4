"""STAR files made at random, with what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from cryolike.testing.meaning import Meaning

__all__ = ["StarFile", "make_star_file"]

_CTF: dict[str, tuple[str, float, float]] = {
    "DefocusU": ("defocus_u_A", 2_000, 40_000),
    "DefocusV": ("defocus_v_A", 2_000, 40_000),
    "DefocusAngle": ("defocus_angle_rad", -360, 360),
    "SphericalAberration": ("spherical_aberration_mm", 0.01, 5),
    "Voltage": ("voltage_kV", 60, 400),
}
_DEFAULTED: dict[str, tuple[str, float, float, float]] = {
    "PhaseShift": ("phase_shift_rad", 0, 180, 0.0),
    "AmplitudeContrast": ("amplitude_contrast", 0.01, 0.99, 0.1),
    "CtfBfactor": ("ctf_bfactor_A2", 0, 200, 0.0),
    "CtfScalefactor": ("ctf_scale", 0.1, 2, 1.0),
}
_POSES: dict[str, tuple[str, float, float]] = {
    "AngleRot": ("rot_rad", -180, 180),
    "AngleTilt": ("tilt_rad", 0, 180),
    "AnglePsi": ("psi_rad", -180, 180),
}
_IN_DEGREES = {"DefocusAngle", "PhaseShift", *_POSES}
_PIXEL_SIZES = (
    ("ImagePixelSize",),
    ("PixelSize",),
    ("DetectorPixelSize", "Magnification"),
    ("MicrographPixelSize",),
    ("MicrographOriginalPixelSize",),
    (),
)
_OF_OPTICS = (*list(_CTF)[3:], *list(_DEFAULTED)[1:2], "ImageSize")
"""Quantities that an optics table can give."""

_NOT_APPLIED = {
    "BeamTiltX": ("0.0", "0.35", "-1.2"),
    "BeamTiltY": ("0.0", "0.35", "-1.2"),
    "OddZernike": ("[0,0,0]", "[0.1,-2e-3,0]"),
    "EvenZernike": ("[0,0,0]", "[0.1,-2e-3,0]"),
    "MagMat00": ("1.0", "1.002", "0"),
    "MagMat01": ("0", "0.001"),
    "MagMat10": ("0", "0.001"),
    "MagMat11": ("1.0", "0.998", "0"),
    "CtfDataAreCtfPremultiplied": ("0", "False"),
    "CtfDataArePhaseFlipped": ("0",),
    "ImageDimensionality": ("2",),
}
"""What readers look at, and say something about, but do not put into the table."""

_FOLDERS = ("", "", "Extract/job012/", "./", "/data/p 1/", "J3/extract/", "données/à/", "../")
_STEMS = ("a", "stack_01", "b.c", "0_12345", "α", "it's", "x#1", "caf\udce9", "mic@2", "naïve…")
_ENDINGS = (".mrcs", ".mrcs", ".mrc", ".mrcs.gz", "")
_WORDS = (
    "None",
    "x",
    "12",
    "-0.5",
    "a b",
    "",
    "it's",
    "#1",
    "_y",
    "data_q",
    "[1,2]",
    "é\xa0è",
    "?",
)
_COMMENTS = ("", "# version 30001", "#", "# 'quoted' \"text\" data_x")


@dataclass(frozen=True, kw_only=True, eq=False)
class StarFile:
    """A STAR file and what it means.

    Parameters
    ----------
    content
        The file.
    meaning
        Of its rows, read by their image names.
    meaning_without_names
        Of its rows, read as those of one stack in sequence.
    """

    content: bytes = field(repr=False)
    meaning: Meaning
    meaning_without_names: Meaning

    def __repr__(self) -> str:
        return f"StarFile(content={self.content!r})"

    def write(self, path: Path) -> Path:
        """Write the file; return its path."""
        path.write_bytes(self.content)
        return path


def make_star_file(
    random: Random,
    *,
    stacks: Mapping[str, int] | None = None,
    n_rows: int | None = None,
    pixel_size_A: float | None = None,
) -> StarFile:
    """Make a valid STAR file of particles, in any of the ways that programs write one.

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

    Returns
    -------
    StarFile
        Reading it finds no problems.
    """
    return _StarMaker(random, stacks, n_rows, pixel_size_A).file()


@dataclass
class _Table:
    """A table while it is made: texts of each column, by bare label."""

    name: str
    n_rows: int
    columns: dict[str, list[str]] = field(default_factory=dict)


class _StarMaker:
    def __init__(
        self,
        random: Random,
        stacks: Mapping[str, int] | None,
        n_rows: int | None,
        pixel_size_A: float | None,
    ) -> None:
        self.random = random
        self.stacks = stacks
        self.pixel_size_A = pixel_size_A
        self.has_optics = random.random() < 0.6
        n_rows = random.randint(1, 6) if n_rows is None else n_rows
        self.particles = _Table("particles", n_rows)
        self.optics = _Table("optics", random.randint(1, 3) if self.has_optics else 0)
        self.group_of_row = [0] * n_rows
        self.columns: dict[str, np.ndarray] = {}

    def file(self) -> StarFile:
        """Decide on all columns, then on how they are written."""
        self.optics_groups()
        names = self.image_names()
        for label, (name, low, high) in _CTF.items():
            self.columns[name] = self.quantity(label, low, high)
        for label, (name, low, high, default) in _DEFAULTED.items():
            given = self.random.random() < 0.5
            n_rows = self.particles.n_rows
            self.columns[name] = (
                self.quantity(label, low, high) if given else np.full(n_rows, default)
            )
        paired = dict(self.columns)
        self.pixel_sizes()
        self.poses()
        self.not_applied()
        for name in ("box_px", "class_label", "optics_group"):
            if name in self.columns:
                paired[name] = self.columns[name]
        paired["pixel_size_A"] = np.full(self.particles.n_rows, np.nan)
        return StarFile(
            content=self.text().encode("utf-8", "surrogateescape"),
            meaning=Meaning(image_names=tuple(names), columns=self.columns),
            meaning_without_names=Meaning(
                image_names=tuple(("", i) for i in range(len(names))), columns=paired
            ),
        )

    def optics_groups(self) -> None:
        """Define groups and assign rows to them; class numbers and box sizes besides."""
        random, n_rows = self.random, self.particles.n_rows
        if self.has_optics or random.random() < 0.3:
            n_groups = max(1, self.optics.n_rows)
            labels = random.sample(("1", "2", "3", "17", "-4", "a", "opticsGroup1"), n_groups)
            self.group_of_row = [random.randrange(n_groups) for _ in range(n_rows)]
            self.optics.columns["OpticsGroup"] = [self.label(label) for label in labels]
            used = [labels[group] for group in self.group_of_row]
            self.particles.columns["OpticsGroup"] = [self.label(label) for label in used]
            self.columns["optics_group"] = np.array(used)
        if random.random() < 0.3:
            classes = [str(random.randint(0, 50)) for _ in range(n_rows)]
            self.particles.columns["ClassNumber"] = [self.label(label) for label in classes]
            self.columns["class_label"] = np.array(classes)
        if random.random() < 0.3:
            table = self.table_of("ImageSize")
            boxes = [random.randint(1, 1024) for _ in range(table.n_rows)]
            table.columns["ImageSize"] = [self.label(str(box)) for box in boxes]
            self.columns["box_px"] = self.of_rows(table, np.array(boxes))

    def label(self, text: str) -> str:
        """Write a whole number as some programs do."""
        is_number = text.lstrip("-").isdecimal()
        return text + self.random.choice(("", "", ".000000", ".")) if is_number else text

    def table_of(self, label: str) -> _Table:
        """Choose the table that has a column."""
        may_be_optics = self.has_optics and label in _OF_OPTICS
        return self.optics if may_be_optics and self.random.random() < 0.8 else self.particles

    def of_rows(self, table: _Table, values: np.ndarray) -> np.ndarray:
        """Give each particle its value."""
        return values if table is self.particles else values[self.group_of_row]

    def quantity(self, label: str, low: float, high: float) -> np.ndarray:
        """Add a column of numbers; where both tables have it, the particles' counts."""
        table = self.table_of(label)
        is_same = self.random.random() < 0.3
        first = self.number(low, high)
        texts = [first if is_same else self.number(low, high) for _ in range(table.n_rows)]
        table.columns[label] = texts
        if table is self.particles and label in _OF_OPTICS and self.random.random() < 0.2:
            self.optics.columns[label] = [self.number(low, high) for _ in range(self.optics.n_rows)]
        values = np.array([float(text) for text in texts])
        if label in _IN_DEGREES:
            values = np.array([math.radians(value) for value in values])
        return self.of_rows(table, values)

    def number(self, low: float, high: float) -> str:
        """Write a number between two others in one of the ways there are."""
        value = low + (high - low) * self.random.random()
        formats = (
            "{:.6f}",
            "{:.6f}",
            "{!r}",
            "{:.3E}",
            "{:g}",
            "{:+.4f}",
            "{:.5e}",
            "{:.0f}.",
            "{:.0f}",
        )
        text = self.random.choice(formats).format(value)
        if not low <= float(text) <= high:
            return repr(value)
        if text.startswith("0.") and len(text) > 2 and self.random.random() < 0.2:
            return text[1:]
        return text

    def image_names(self) -> list[tuple[str, int]]:
        """Name the images, as programs do."""
        stacks = list(self.stacks or (self.stack_name() for _ in range(self.random.randint(1, 3))))
        width = self.random.choice((0, 1, 6, 6, 6, 12))
        has_numbers = self.stacks is not None or self.random.random() < 0.9
        names: list[tuple[str, int]] = []
        for row in range(self.particles.n_rows):
            stack = self.random.choice(stacks)
            image = self.random.choice((row, 0, 7, 999_999))
            if self.stacks is not None:
                image %= self.stacks[stack]
            names.append((stack, image) if has_numbers else (stack.replace("@", "-"), -1))
        self.particles.columns["ImageName"] = [
            stack if image < 0 else f"{image + 1:0{width}d}@{stack}" for stack, image in names
        ]
        return names

    def stack_name(self) -> str:
        choice = self.random.choice
        return choice(_FOLDERS) + choice(_STEMS) + choice(_ENDINGS)

    def pixel_sizes(self) -> None:
        """Add the fields of one way to give the pixel size."""
        sources = _PIXEL_SIZES[:-1] if self.pixel_size_A else _PIXEL_SIZES
        source = self.random.choice(sources)
        n_rows = self.particles.n_rows
        if not source:
            self.columns["pixel_size_A"] = np.full(n_rows, np.nan)
            return
        table = self.optics if self.has_optics else self.particles
        sizes = [self.number(0.5, 10) for _ in range(table.n_rows)]
        if self.pixel_size_A:
            sizes = [f"{self.pixel_size_A:.6f}"] * table.n_rows
        table.columns[source[0]] = sizes
        values = np.array([float(text) for text in sizes])
        if len(source) == 2:  # micrometres, and 10,000 × magnification makes them Å
            table.columns[source[1]] = ["10000.0"] * table.n_rows
        self.columns["pixel_size_A"] = self.of_rows(table, values)

    def poses(self) -> None:
        """Add orientations, and origins in Å or in pixels."""
        for label, (name, low, high) in _POSES.items():
            if self.random.random() < 0.4:
                self.columns[name] = self.quantity(label, low, high)
        for axis in "XY":
            unit = self.random.choice(("", "", "Angst", "pixels"))
            name = f"origin_{axis.lower()}_A"
            if unit == "Angst":
                self.columns[name] = self.quantity(f"Origin{axis}Angst", -20, 20)
            elif unit == "pixels":
                pixels = self.quantity(f"Origin{axis}", -20, 20)
                if np.isfinite(self.columns["pixel_size_A"]).all():
                    self.columns[name] = pixels * self.columns["pixel_size_A"]

    def not_applied(self) -> None:
        """Add columns that change nothing; the four of the magnification come together."""
        if self.random.random() < 0.5:
            return
        table = self.optics if self.has_optics else self.particles
        labels = self.random.sample(sorted(_NOT_APPLIED), self.random.randint(1, 4))
        if any(label.startswith("MagMat") for label in labels):
            labels += [label for label in _NOT_APPLIED if label.startswith("MagMat")]
        for label in labels:
            values = [self.random.choice(_NOT_APPLIED[label]) for _ in range(table.n_rows)]
            table.columns[label] = values

    # How it is written

    def text(self) -> str:
        """Write all tables, and some that nobody needs."""
        random = self.random
        if self.has_optics:
            tables = [self.optics, self.particles]
        else:
            self.particles.name = random.choice(("particles", "images", "", "0"))
            tables = [self.particles]
        if random.random() < 0.2:
            job = _Table("job", 1, {"JobIsContinue": ["0"], "JobTypeLabel": ["relion.import"]})
            tables.append(job)
        if random.random() < 0.2:
            tables.append(_Table("general", 2, {"Odd": ["1", "2"], "Word": ["a", "b"]}))
        random.shuffle(tables)
        for table in tables:
            for i in range(random.choice((0, 0, 1, 2))):
                words = [random.choice(_WORDS) for _ in range(table.n_rows)]
                table.columns[f"Unknown{i}"] = words
        line_end = random.choice(("\n", "\n", "\n", "\r\n"))
        prefix = random.choice(("_rln", "_rln", "_rln", "_", "__rln"))
        lines = [random.choice(_COMMENTS)]
        for table in tables:
            lines += self.lines(table, prefix)
        text = line_end.join(lines)
        if random.random() < 0.1:
            text = text.rstrip(" \t\r\n")
        return ("\ufeff" if random.random() < 0.1 else "") + text

    def lines(self, table: _Table, prefix: str) -> list[str]:
        """Write one table, with loop_ or, where it has one row, perhaps without."""
        random = self.random
        labels = list(table.columns)
        random.shuffle(labels)
        blanks = random.choice((" ", "  ", "\t", " \t "))
        margin, end = random.choice(("", "", " ")), random.choice(("", "", " "))
        lines = [f"data_{table.name}", "", random.choice(_COMMENTS)]
        if table.n_rows == 1 and random.random() < 0.2:
            lines += [
                f"{margin}{prefix}{label}{blanks}{_quoted(table.columns[label][0])}{end}"
                for label in labels
            ]
            return [*lines, ""]
        numbered = random.random() < 0.7
        lines.append("loop_" + end)
        lines += [
            f"{prefix}{label}{f' #{i}' if numbered else ''}" for i, label in enumerate(labels, 1)
        ]
        is_quoted = random.random() < 0.1
        for row in range(table.n_rows):
            texts = [_quoted(table.columns[label][row], always=is_quoted) for label in labels]
            lines.append(margin + blanks.join(texts) + end)
            if random.random() < 0.05:
                lines.append(random.choice(("", "   ", "# a comment")))
        return [*lines, ""]


def _quoted(text: str, *, always: bool = False) -> str:
    """Quote a value where that is needed to tell it from its neighbours."""
    is_plain = text and " " not in text and text[0] not in "_#'\""
    if is_plain and not always and not text.startswith("data_"):
        return text
    return f'"{text}"' if '"' not in text else f"'{text}'"
