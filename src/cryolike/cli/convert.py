"""``cryolike convert``: polar stacks from a set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cryolike.cli import options as opt
from cryolike.cli.console import INTERRUPTED, errors_become_exit_codes, fail, say, say_json, warn
from cryolike.conversion import (
    ConversionPlan,
    ConversionReport,
    ConvertOptions,
    convert,
    plan_conversion,
)
from cryolike.errors import UsageError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable
from cryolike.progress import progress_bar
from cryolike.store.writer import refuse_existing_results

app = typer.Typer(
    no_args_is_help=True,
    help="Convert a particle set to polar Fourier stacks. Images come out in the order of the "
    "rows, each with its CTF and the row it came from; a set that is not wholly usable stops with "
    "one list of everything wrong, before anything is written.",
)


@app.command()
@errors_become_exit_codes
def star(
    star_file: Annotated[Path, typer.Argument(help="RELION particles STAR with image names.")],
    output: opt.Output,
    params: opt.Params = None,
    folder: opt.Folder = "",
    rows: opt.Rows = "",
    random: opt.RandomRows = None,
    seed: opt.Seed = 0,
    class_label: opt.ClassLabel = None,
    on_bad_row: opt.OnBadRow = "error",
    on_bad_image: opt.OnBadImage = "error",
    accept_ctf_applied: opt.AcceptCtfApplied = False,
    pixel_size: opt.PixelSize = None,
    downsample: opt.Downsample = 1,
    downsample_type: opt.DownsampleKind = "fourier",
    contrast: opt.Contrast = "recorded",
    batch_size: opt.BatchSize = 1024,
    stacks: opt.StacksMax = -1,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    plots: opt.Plots = True,
    device: opt.Device = "cpu",
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Convert the images that a RELION STAR file names.

    Examples
    --------
        cryolike convert star particles.star -o converted/

        cryolike convert star run_data.star -o test/ --random 500 --seed 1 --folder Extract/job012
    """
    given = locals()
    _convert(lambda: read_star(star_file, accept_ctf_applied=accept_ctf_applied), given)


@app.command()
@errors_become_exit_codes
def cryosparc(
    cs_file: Annotated[Path, typer.Argument(help="Particles .cs, or the .csg of a result group.")],
    output: opt.Output,
    passthrough: opt.Passthrough = None,
    params: opt.Params = None,
    folder: opt.Folder = "",
    rows: opt.Rows = "",
    random: opt.RandomRows = None,
    seed: opt.Seed = 0,
    class_label: opt.ClassLabel = None,
    on_bad_row: opt.OnBadRow = "error",
    on_bad_image: opt.OnBadImage = "error",
    pixel_size: opt.PixelSize = None,
    downsample: opt.Downsample = 1,
    downsample_type: opt.DownsampleKind = "fourier",
    contrast: opt.Contrast = "recorded",
    batch_size: opt.BatchSize = 1024,
    stacks: opt.StacksMax = -1,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    plots: opt.Plots = True,
    device: opt.Device = "cpu",
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Convert the images that a cryoSPARC .cs file names.

    Fields that are missing there are looked for in the passthrough files given, or in the one
    beside it.

    Examples
    --------
        cryolike convert cryosparc J12/cryosparc_P1_J12_004_particles.cs -o converted/

        cryolike convert cryosparc J12/particles.cs --passthrough J12/passthrough.cs -o converted/
    """
    given = locals()
    _convert(lambda: read_cryosparc(cs_file, passthrough=passthrough or ()), given)


@app.command()
@errors_become_exit_codes
def job(
    project: Annotated[Path, typer.Argument(help="cryoSPARC project folder, which holds J4.")],
    job: Annotated[int, typer.Option("--job", "-j", help="Number of the job.")],
    output: opt.Output,
    params: opt.Params = None,
    rows: opt.Rows = "",
    random: opt.RandomRows = None,
    seed: opt.Seed = 0,
    class_label: opt.ClassLabel = None,
    on_bad_row: opt.OnBadRow = "error",
    on_bad_image: opt.OnBadImage = "error",
    pixel_size: opt.PixelSize = None,
    downsample: opt.Downsample = 1,
    downsample_type: opt.DownsampleKind = "fourier",
    contrast: opt.Contrast = "recorded",
    batch_size: opt.BatchSize = 1024,
    stacks: opt.StacksMax = -1,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    plots: opt.Plots = True,
    device: opt.Device = "cpu",
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Convert the stacks of a cryoSPARC restack or downsample job.

    Rows of its passthrough file describe the images of batch_000000, batch_000001, … in order.

    Example:

        cryolike convert job /data/P12 --job 4 -o converted/
    """
    given = locals()
    _convert(lambda: read_job(project, job), given)


@app.command()
@errors_become_exit_codes
def paired(
    star: Annotated[list[Path], typer.Option("--star", help="STAR file; give one for each stack.")],
    mrc: Annotated[list[Path], typer.Option("--mrc", help="Stack; give one for each STAR file.")],
    output: opt.Output,
    radians: Annotated[
        bool, typer.Option("--radians", help="The STAR files' angles are in radians.")
    ] = False,
    params: opt.Params = None,
    rows: opt.Rows = "",
    random: opt.RandomRows = None,
    seed: opt.Seed = 0,
    class_label: opt.ClassLabel = None,
    on_bad_row: opt.OnBadRow = "error",
    on_bad_image: opt.OnBadImage = "error",
    accept_ctf_applied: opt.AcceptCtfApplied = False,
    pixel_size: opt.PixelSize = None,
    downsample: opt.Downsample = 1,
    downsample_type: opt.DownsampleKind = "fourier",
    contrast: opt.Contrast = "recorded",
    batch_size: opt.BatchSize = 1024,
    stacks: opt.StacksMax = -1,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    plots: opt.Plots = True,
    device: opt.Device = "cpu",
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Convert stacks, each with a STAR file whose rows describe its images in order.

    Stacks never share an output stack. Poses, pixel sizes and image names in these STAR files are
    ignored.

    Example:

        cryolike convert paired --star a.star --mrc a.mrcs --star b.star --mrc b.mrcs -o converted/
    """
    given = locals()
    _convert(
        lambda: read_pairs(
            star,
            mrc,
            defocus_angle_is_degree=not radians,
            phase_shift_is_degree=not radians,
            accept_ctf_applied=accept_ctf_applied,
        ),
        given,
    )


def _convert(read: Callable[[], ParticleTable], given: dict[str, Any]) -> None:
    """Read, plan, convert and report, with the options of a command."""
    if given["resume"] and given["overwrite"]:
        raise UsageError("--resume and --overwrite contradict each other: choose one.")
    if not (given["dry_run"] or given["resume"] or given["overwrite"]):
        refuse_existing_results(given["output"])
    table = opt.chosen_rows(
        read(), given["rows"], given["random"], given["seed"], given["class_label"]
    )
    plan = plan_conversion(
        table,
        opt.descriptor_or_none(given["params"]),
        ConvertOptions(
            folder=given.get("folder", ""),
            batch_size=given["batch_size"],
            pixel_size_A=given["pixel_size"],
            downsample_factor=given["downsample"],
            downsample_type=given["downsample_type"],
            contrast=given["contrast"],
            n_stacks_max=given["stacks"],
            on_bad_row=given["on_bad_row"],
            on_bad_image=given["on_bad_image"],
            plots=given["plots"],
        ),
    )
    if given["dry_run"]:
        _say_plan(plan, as_json=given["json"])
        return
    _say_notices(plan.notices)
    if not given["json"]:
        say(plan.describe())
    with progress_bar("converting", visible=not (given["quiet"] or given["json"])) as progress:
        try:
            report = convert(
                plan,
                given["output"],
                skip_exist=given["resume"],
                overwrite=given["overwrite"],
                device=given["device"],
                progress=progress,
            )
        except KeyboardInterrupt:
            fail(
                "interrupted. Complete stacks are kept: run the same command with --resume.",
                INTERRUPTED,
            )
    _say_notices(notice for notice in report.notices if notice not in plan.notices)
    _say_report(report, as_json=given["json"])


def _say_notices(notices: Any) -> None:
    for notice in notices:
        warn([notice.message], label=notice.level)


def _say_plan(plan: ConversionPlan, *, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "n_rows_in": plan.n_rows_in,
                "n_images": plan.n_images,
                "n_stacks": len(plan.stacks),
                "n_bytes": plan.n_bytes,
                "n_skipped": len(plan.rejects),
                "warnings": [n.message for n in plan.notices if n.level == "warning"],
            }
        )
        return
    _say_notices(plan.notices)
    say(plan.describe())
    say("dry run: nothing was written")


def _say_report(report: ConversionReport, *, as_json: bool) -> None:
    if not as_json:
        say(report.describe(), style="green")
        return
    say_json(
        {
            "folder": str(report.folder),
            "n_rows_in": report.n_rows_in,
            "n_images_out": report.n_images_out,
            "n_stacks": report.n_stacks,
            "n_stacks_kept": report.n_stacks_kept,
            "n_skipped": len(report.rejects),
            "stopped_early": report.stopped_early,
            "seconds": round(report.seconds, 3),
            "warnings": list(report.warnings),
        }
    )
