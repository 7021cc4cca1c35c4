"""Every option that several commands take, defined once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from cryolike.conversion.plan import Contrast as ContrastChoice
from cryolike.conversion.plan import Policy
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import UsageError
from cryolike.particles import ParticleTable, select_rows
from cryolike.physics.preprocess import DownsampleType

__all__ = [
    "AcceptCtfApplied",
    "BatchSize",
    "ClassLabel",
    "Contrast",
    "Device",
    "Downsample",
    "DownsampleKind",
    "DryRun",
    "Folder",
    "Json",
    "OnBadImage",
    "OnBadRow",
    "Output",
    "Overwrite",
    "Params",
    "Passthrough",
    "PixelSize",
    "Plots",
    "Quiet",
    "RandomRows",
    "Resume",
    "Rows",
    "Seed",
    "StacksMax",
    "bytes_of",
    "chosen_rows",
    "descriptor_or_none",
    "one_of",
]


def one_of(choice: Any) -> Callable[[str | None], str | None]:
    """Make a check that a value, if there is one, is one of a Literal's."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in get_args(choice):
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(get_args(choice))}.")
        return value

    return check


_ROWS, _IMAGES, _RUN = "Which rows", "What happens to images", "Running"

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write; made where it does not exist.")
]
Params = Annotated[
    Path | None,
    typer.Option(
        "--params",
        "-p",
        help="Image descriptor, made by `cryolike describe`. Without it, box and pixel size come "
        "from the set and the polar grid is the default one.",
    ),
]
Folder = Annotated[
    str,
    typer.Option(
        help="Folder that holds the stacks: then only the file names in the metadata count. "
        "Without it, paths count: relative to the working directory, else to the metadata file's "
        "folder, else to the folders above it.",
    ),
]
Passthrough = Annotated[
    list[Path] | None,
    typer.Option(
        help="Passthrough .cs that holds further fields of the same particles; joined by uid. "
        "May be given several times.",
    ),
]
Rows = Annotated[
    str,
    typer.Option(
        metavar="START:STOP",
        help="Only these rows of the file, counted from 0, STOP excluded: 0:1000.",
        rich_help_panel=_ROWS,
    ),
]
RandomRows = Annotated[
    int | None,
    typer.Option("--random", help="Draw this many rows at random.", rich_help_panel=_ROWS),
]
Seed = Annotated[int, typer.Option(help="Seed of --random.", rich_help_panel=_ROWS)]
ClassLabel = Annotated[
    str | None,
    typer.Option(
        "--class", help="Only rows of this class, as the file writes it.", rich_help_panel=_ROWS
    ),
]
OnBadRow = Annotated[
    str,
    typer.Option(
        metavar="error|skip",
        callback=one_of(Policy),
        help="What to do with rows that cannot be used: stop before anything is written, or leave "
        "them out and list them in rejects.csv.",
        rich_help_panel=_ROWS,
    ),
]
OnBadImage = Annotated[
    str,
    typer.Option(
        metavar="error|skip",
        callback=one_of(Policy),
        help="The same for images that are blank, NaN or infinite.",
        rich_help_panel=_ROWS,
    ),
]
AcceptCtfApplied = Annotated[
    bool,
    typer.Option(
        "--accept-ctf-applied",
        help="Convert images although their metadata says that phases were flipped or the CTF was "
        "multiplied in.",
        rich_help_panel=_ROWS,
    ),
]
PixelSize = Annotated[
    float | None,
    typer.Option(
        help="Pixel size in Å of the images on disk, where you know better than the metadata.",
        rich_help_panel=_IMAGES,
    ),
]
Downsample = Annotated[
    int,
    typer.Option(
        help="Merge this many pixels along each axis. The descriptor describes the images "
        "afterwards.",
        rich_help_panel=_IMAGES,
    ),
]
DownsampleKind = Annotated[
    str,
    typer.Option(
        metavar="fourier|mean|max",
        callback=one_of(DownsampleType),
        help="Crop in Fourier space, or pool pixels as published (which aliases).",
        rich_help_panel=_IMAGES,
    ),
]
Contrast = Annotated[
    str,
    typer.Option(
        metavar="recorded|keep|invert",
        callback=one_of(ContrastChoice),
        help="Multiply by the sign that the metadata records, by nothing, or by −1. Protein must "
        "come out bright.",
        rich_help_panel=_IMAGES,
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Images in an output stack.", rich_help_panel=_RUN)
]
StacksMax = Annotated[
    int,
    typer.Option("--stacks", help="Stop after this many stacks; -1 for all.", rich_help_panel=_RUN),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an interrupted run: what is complete is kept.",
        rich_help_panel=_RUN,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace results of an earlier run.", rich_help_panel=_RUN),
]
Plots = Annotated[
    bool,
    typer.Option("--plots/--no-plots", help="Draw pictures of what is made.", rich_help_panel=_RUN),
]
Device = Annotated[
    str,
    typer.Option(metavar="cpu|cuda|auto", help="Where to compute.", rich_help_panel=_RUN),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check everything and say what would be done.", rich_help_panel=_RUN
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def chosen_rows(
    table: ParticleTable, rows: str, random: int | None, seed: int, class_label: str | None
) -> ParticleTable:
    """Apply the options that choose rows."""
    return select_rows(
        table, rows=_parse_rows(rows), random=random, seed=seed, class_label=class_label
    )


def descriptor_or_none(params: Path | None) -> ImageDescriptor | None:
    """Load the descriptor where one is given."""
    return None if params is None else ImageDescriptor.load(params)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(text: str) -> float:
    """Take a number of bytes from what --memory says: ``4G``, ``500M``."""
    match = re.fullmatch(r"(\d+\.?\d*)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise UsageError(f"--memory {text}: write a number and K, M, G or T, such as 4G.")
    return float(match[1]) * _UNITS[match[2]]


def _parse_rows(text: str) -> slice | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d*):(\d*)", text)
    start = int(match[1] or 0) if match else 0
    stop = int(match[2]) if match and match[2] else None
    if not match or (stop is not None and stop <= start):
        msg = f"--rows {text}: write START:STOP with 0 ≤ START < STOP, such as 0:1000."
        raise UsageError(msg)
    return slice(start, stop)
