"""``cryolike inspect``: what a set holds and everything wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cryolike.cli import options as opt
from cryolike.cli.console import BAD_DATA, errors_become_exit_codes, fail, say, say_json, warn
from cryolike.conversion import SetSummary, inspect_particles
from cryolike.errors import counted

_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_PROGRAMS = {
    "star": "RELION STAR",
    "cryosparc": "cryoSPARC .cs",
    "job": "cryoSPARC job folder",
    "paired": "STAR in the order of a stack",
}
_MOST_LISTED = 12


@errors_become_exit_codes
def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="STAR, .cs or .csg file; with --job a cryoSPARC project folder."),
    ],
    passthrough: opt.Passthrough = None,
    mrc: Annotated[
        Path | None,
        typer.Option(help="Stack whose images the rows of a generic STAR describe in order."),
    ] = None,
    job: Annotated[
        int | None, typer.Option("--job", "-j", help="Number of a cryoSPARC job.")
    ] = None,
    folder: opt.Folder = "",
    json: opt.Json = False,
) -> None:
    """Show what would be read from a particle set, and everything wrong with it.

    Reads metadata and stack headers, no images; writes nothing. The exit code is 1 where something
    is wrong.

    Examples
    --------
        cryolike inspect particles.star

        cryolike inspect J12/particles.cs --passthrough J12/passthrough.cs --json
    """
    summary = inspect_particles(
        path, passthrough=passthrough or (), mrc=mrc, job=job, folder=folder
    )
    if json:
        say_json(summary.to_dict())
    else:
        for name, value in _lines(summary):
            say(f"{name:<16} {value}")
        warn(summary.warnings)
        warn(summary.notes, label="note")
    if summary.problems and json:
        raise typer.Exit(BAD_DATA)
    if summary.problems:
        numbered = "\n".join(f"{i}. {text}" for i, text in enumerate(summary.problems, 1))
        fail(f"{counted(len(summary.problems), 'problem')} to solve before converting:\n{numbered}")
    if summary.n_files and not json:
        say("ready to convert", style="green")


def _lines(summary: SetSummary) -> list[tuple[str, str]]:
    """Name and value of each line of the summary."""
    files = f"{summary.n_files_found:,} of {summary.n_files:,} found"
    if summary.n_files_found:
        files += f", {counted(summary.n_images_in_files, 'image')} in them"
    sizes = ", ".join(f"{size:g}" for size in summary.pixel_sizes_A[:_MOST_LISTED])
    headers = ", ".join(f"{size:g}" for size in summary.header_pixel_sizes_A[:_MOST_LISTED])
    lines = [
        ("format", f"{_PROGRAMS[summary.kind]}: {', '.join(summary.metadata_files)}"),
        ("rows", f"{summary.n_rows:,}"),
        ("stacks", files),
        ("box", _counted(summary.boxes_px, "{0}×{0} pixels") or "unknown"),
        (
            "pixel size",
            f"{sizes} Å (from {summary.pixel_size_source})" if sizes else "not in the metadata",
        ),
        ("  in headers", f"{headers} Å" if headers else "none"),
        (
            "MRC modes",
            _counted({_mode(m): n for m, n in summary.modes.items()}, "{0}", "stack") or "unknown",
        ),
        ("defocus", _spread(summary.defocus_A, "Å")),
        ("astigmatism", _spread(summary.astigmatism_A, "Å")),
        ("phase shift", _spread(summary.phase_shift_deg, "°")),
        ("contrast sign", _counted(summary.contrast_signs, "{0:+d}") or "not recorded"),
        ("poses", "yes" if summary.has_poses else "none"),
        ("classes", _counted(summary.classes, "{0}") or "none"),
    ]
    for i, group in enumerate(summary.optics[:_MOST_LISTED]):
        lines.append(
            (
                "optics" if i == 0 else "",
                f"{group.label + ': ' if group.label else ''}{group.voltage_kV:g} kV, Cs "
                f"{group.spherical_aberration_mm:g} mm, amplitude contrast "
                f"{group.amplitude_contrast:g} ({counted(group.n_rows, 'row')})",
            )
        )
    more = len(summary.optics) - _MOST_LISTED
    return lines + ([("", f"… and {more:,} more")] if more > 0 else [])


def _mode(mode: int) -> str:
    return f"{mode} ({_MODES.get(mode, 'unknown')})"


def _counted(counts: Mapping[Any, int], form: str, unit: str = "row") -> str:
    shown: Sequence[tuple[Any, int]] = list(counts.items())[:_MOST_LISTED]
    text = ", ".join(f"{form.format(value)} ({counted(n, unit)})" for value, n in shown)
    return text + (f", … {len(counts) - len(shown):,} more" if len(counts) > len(shown) else "")


def _spread(limits: tuple[float, float] | None, unit: str) -> str:
    if limits is None:
        return "unknown"
    low, high = limits
    return f"{low:,.0f} {unit}" if low == high else f"{low:,.0f} to {high:,.0f} {unit}"
