"""``cryolike demo``: all of it on a small set simulated on the spot."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cryolike.cli import options as opt
from cryolike.cli.console import errors_become_exit_codes, fail, say, warn
from cryolike.demo import run_demo
from cryolike.progress import progress_bar


@errors_become_exit_codes
def demo(
    output: opt.Output = Path("demo"),
    images: Annotated[int, typer.Option(min=3, help="Images to simulate.")] = 600,
    box: Annotated[int, typer.Option(min=16, help="Box in pixels.")] = 96,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Simulate a RELION 3.1 set; inspect, convert, verify it; score it against two structures.

    The particle is asymmetric; the set has two optics groups, three stacks, shuffled rows and
    strong astigmatism. Everything it makes stays, to be looked at.

    Examples
    --------
        cryolike demo -o demo/
    """
    started = time.perf_counter()
    result = run_demo(
        output,
        partial(progress_bar, visible=not quiet),
        n_images=images,
        n_pixels=box,
        overwrite=overwrite,
    )
    summary = result.summary
    say(
        f"simulated    {summary.n_rows:,} particles in {summary.n_files} stacks, {result.star_file}"
    )
    say(f"inspected    {len(summary.optics)} optics groups, {len(summary.problems)} problems")
    warn(summary.warnings)
    say(f"converted    {result.conversion.describe()}")
    say(f"verified     {result.verification.describe()}")
    n_scored, n_right = result.scores.n_images, int(result.scores.n_best[0])
    say(
        f"scored       {n_scored:,} images against two structures: {n_right:,} prefer the one they "
        f"show; {result.scores.folder / 'results.csv'} has them all"
    )
    say(f"picture      {result.picture}: images follow their CTF, and tell the structures apart")
    say(
        f"more         pictures are in {result.conversion.folder / 'plots'} and "
        f"{result.scores.folder / 'plots'}"
    )
    if not result.verification.is_good:
        fail("the converted set did not verify; please report this.")
    say(f"done in {time.perf_counter() - started:.1f} s. Now with your own data:", style="green")
    say("    cryolike inspect particles.star")
    say("    cryolike score particles.star --structure model.pdb --output scores/")
