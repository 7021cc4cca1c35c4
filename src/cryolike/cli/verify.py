"""``cryolike verify``: whether a set is whole, unchanged, and what its source says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryolike.cli import options as opt
from cryolike.cli.console import errors_become_exit_codes, fail, say, say_json
from cryolike.conversion import verify as verify_set
from cryolike.progress import progress_bar


@errors_become_exit_codes
def verify(
    folder: Annotated[Path, typer.Argument(help="Output folder of a conversion.")],
    sample: Annotated[
        int, typer.Option(min=0, help="Images to compute anew from their source.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    sources: Annotated[
        bool,
        typer.Option(
            "--sources/--no-sources",
            help="Whether to look at the source files; without them only our own are checked.",
        ),
    ] = True,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Check every file of a converted set, and a sample of its images against their source.

    The exit code is 1 where anything is wrong, and everything that is gets listed.

    Example:

        cryolike verify converted/
    """
    with progress_bar("verifying", visible=not (quiet or json), unit="files") as progress:
        report = verify_set(folder, n_sample=sample, seed=seed, sources=sources, progress=progress)
    if json:
        say_json(
            {
                "folder": str(report.folder),
                "is_good": report.is_good,
                "faults": list(report.faults),
                "n_files": report.n_files,
                "n_images": report.n_images,
                "n_recomputed": report.n_recomputed,
            }
        )
        raise typer.Exit(0 if report.is_good else 1)
    if not report.is_good:
        fail(report.describe())
    say(report.describe(), style="green")
