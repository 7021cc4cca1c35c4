"""``cryolike score``: how well structures explain particle images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from cryolike.cli import options as opt
from cryolike.cli.console import (
    INTERRUPTED,
    errors_become_exit_codes,
    fail,
    say,
    say_json,
    warn,
    warnings_on_the_console,
)
from cryolike.conversion import ConvertOptions
from cryolike.conversion.run import resolve_device
from cryolike.errors import CryoLikeError, UsageError, raise_problems
from cryolike.io.read import read_particles
from cryolike.particles import ParticleTable
from cryolike.physics.likelihood import CountedValues
from cryolike.progress import progress_bar
from cryolike.scoring.plan import AtomModel, ScoreOptions, ScorePlan, plan_scoring
from cryolike.scoring.run import ScoreReport, check_run, score_particles
from cryolike.scoring.search import SearchMode
from cryolike.store import open_stacks
from cryolike.store.tiles import refuse_existing_scores
from cryolike.templates import check_structures

_POSES = "Which poses"

Structures = Annotated[
    list[Path],
    typer.Option(
        "--structure",
        "-s",
        help="Map (.mrc, .map) or atomic model (.pdb, .cif), also gzipped; give one for each "
        "structure. Two of the same name become NAME and NAME_1.",
    ),
]
Search = Annotated[
    str | None,
    typer.Option(
        metavar="fast|exact",
        callback=opt.one_of(SearchMode),
        show_default="fast; exact on a GPU",
        help="`exact` compares every view, in-plane angle and shift in full; `fast` looks "
        "everywhere at low resolution first, and says what it may have left out of an image. Both "
        "nearly always find the same poses.",
        rich_help_panel=_POSES,
    ),
]
ShiftMax = Annotated[
    float,
    typer.Option(
        min=0,
        help="Largest shift along x and y, pixels: about the error of the particles' centres.",
        rich_help_panel=_POSES,
    ),
]
ShiftStep = Annotated[
    float,
    typer.Option(
        help="Step between shifts, pixels. Half the step costs four times the time.",
        rich_help_panel=_POSES,
    ),
]
ShiftSd = Annotated[
    float | None,
    typer.Option(
        metavar="Å",
        help="Standard deviation of a Gaussian prior over shifts. Without it all shifts that are "
        "tried are equally likely beforehand.",
        rich_help_panel=_POSES,
    ),
]
ViewingDistance = Annotated[
    float | None,
    typer.Option(
        help="Spacing of viewing directions on the unit sphere; 0.0796 (4.6°, 2,370 directions) "
        "where neither this nor --params says otherwise.",
        rich_help_panel=_POSES,
    ),
]
ViewSpacing = Annotated[
    float | None,
    typer.Option(
        metavar="DEGREES",
        help="The same in degrees. Twice the spacing takes a quarter of the time.",
        rich_help_panel=_POSES,
    ),
]
AtomModelChoice = Annotated[
    str,
    typer.Option(
        "--atoms",
        metavar="beads|electron",
        callback=opt.one_of(AtomModel),
        help="What scatters in an atomic model: one bead for each selected atom, as --params says "
        "(a bead at every Cα without it); or `electron`, every atom of the selection with its "
        "element's scattering factors, B-factor and occupancy.",
        rich_help_panel="Structures",
    ),
]
Local = Annotated[
    float | None,
    typer.Option(
        metavar="DEGREES",
        help="Search only viewing directions within this angle of those in the metadata, and "
        "shifts around theirs. Images whose angles are all zero are searched everywhere.",
        rich_help_panel=_POSES,
    ),
]
Refine = Annotated[
    bool,
    typer.Option(
        "--refine/--no-refine",
        help="Give best poses between those of the grid, where the cross-correlation peaks. "
        "Likelihoods are those of the grid all the same.",
        rich_help_panel=_POSES,
    ),
]
NCompared = Annotated[
    str,
    typer.Option(
        metavar="disc|box",
        callback=opt.one_of(CountedValues),
        help="What the likelihood counts as independent values: those of the frequencies that are "
        "compared, or all pixels as published (too sharp).",
        rich_help_panel=_POSES,
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="What the comparison may use besides templates and images: 500M, 4G. Less is slower.",
        rich_help_panel="Running",
    ),
]


Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Also write the files of the published functions for best poses and their matrices: "
        "templateI/…_stack_STACK.pt, displacements_set.pt, likelihood_matrix/. They are of the "
        "same comparison, which costs nothing more. The array of all poses is not among them; "
        "`run_likelihood_full_cross_correlation` writes it.",
        rich_help_panel="Running",
    ),
]


@errors_become_exit_codes
def score(
    particles: Annotated[
        Path,
        typer.Argument(help="STAR, .cs or .csg file, or a folder that `cryolike convert` wrote."),
    ],
    structure: Structures,
    output: opt.Output,
    params: opt.Params = None,
    passthrough: opt.Passthrough = None,
    folder: opt.Folder = "",
    atoms: AtomModelChoice = "beads",
    search: Search = None,
    shift_max: ShiftMax = 4.0,
    shift_step: ShiftStep = 1.0,
    shift_sd: ShiftSd = None,
    view_spacing: ViewSpacing = None,
    viewing_distance: ViewingDistance = None,
    local: Local = None,
    refine: Refine = False,
    n_compared: NCompared = "disc",
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
    memory: Memory = "4G",
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    plots: opt.Plots = True,
    published: Published = False,
    device: opt.Device = "cpu",
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Say how likely each image is under each structure, and in which pose.

    Every image is compared with projections of every structure: all viewing directions, in-plane
    angles and shifts, each image with its own CTF. Images are converted on the way; nothing has to
    be converted before.

    OUTPUT gets results.parquet and results.csv, one row for each image and structure;
    log_likelihood_integrated.npy, images × structures; particles_scored.star, the set with each
    image's best pose (and particles_scored.cs for a .cs file); and plots/.

    Examples
    --------
        cryolike score particles.star -s open.pdb -s closed.pdb -o scores/

        cryolike score particles.star -s a.mrc -s b.mrc -o test/ --random 200 --view-spacing 8

        cryolike score J12/particles.cs -s a.cif -o scores/ --shift-max 6 --downsample 2

        cryolike score converted/ -s a.mrc -o scores/ --resume
    """
    given = dict(locals())
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other: choose one.")
    options = _score_options(given)
    if not (resume or overwrite):
        refuse_existing_scores(output)
    with warnings_on_the_console() as told:
        plan = _plan(given, options)
        if dry_run:
            check_run(plan, output, resume=resume, overwrite=overwrite, device=device)
            _say_plan(plan, told, as_json=json)
            return
        for notice in plan.notices:
            warn([notice.message], label=notice.level)
        if not json:
            say(plan.describe())
        try:
            report = score_particles(
                plan,
                output,
                resume=resume,
                overwrite=overwrite,
                device=device,
                progress=partial(progress_bar, visible=not (quiet or json)),
            )
        except KeyboardInterrupt:
            fail(
                "interrupted. What is computed is kept: run the same command with --resume.",
                INTERRUPTED,
            )
    _say_report(report, told, as_json=json)


def _default_search(device: str) -> SearchMode:
    return "fast" if resolve_device(device).type == "cpu" else "exact"


def _score_options(given: dict[str, Any]) -> ScoreOptions:
    spacing, distance = given["view_spacing"], given["viewing_distance"]
    if spacing is not None and distance is not None:
        raise UsageError("--view-spacing and --viewing-distance say the same: choose one.")
    return ScoreOptions(
        search=given["search"] or _default_search(given["device"]),
        shift_max_px=given["shift_max"],
        shift_step_px=given["shift_step"],
        shift_sd_A=given["shift_sd"],
        viewing_distance=distance if spacing is None else float(np.deg2rad(spacing)),
        atom_model=given["atoms"],
        local_rad=None if given["local"] is None else float(np.deg2rad(given["local"])),
        refine=given["refine"],
        n_compared=given["n_compared"],
        memory_bytes=opt.bytes_of(given["memory"]),
        on_bad_image=given["on_bad_image"],
        plots=given["plots"],
        published=given["published"],
    )


_OF_METADATA: dict[str, Any] = {
    "rows": "",
    "random": None,
    "seed": 0,
    "class_label": None,
    "on_bad_row": "error",
    "accept_ctf_applied": False,
    "pixel_size": None,
    "downsample": 1,
    "downsample_type": "fourier",
    "contrast": "recorded",
    "folder": "",
    "passthrough": None,
}
"""Options that mean nothing for a set that is converted already, and their defaults."""


def _plan(given: dict[str, Any], options: ScoreOptions) -> ScorePlan:
    descriptor = opt.descriptor_or_none(given["params"])
    is_converted = given["particles"].is_dir()
    if is_converted:
        _refuse_options_of_metadata(given)
    try:
        particles = open_stacks(given["particles"]) if is_converted else _read(given)
    except CryoLikeError as error:
        _add_problems_of_structures(error, given["structure"])
        raise
    if is_converted:
        return plan_scoring(particles, given["structure"], options, descriptor)
    conversion = ConvertOptions(
        folder=given["folder"],
        pixel_size_A=given["pixel_size"],
        downsample_factor=given["downsample"],
        downsample_type=given["downsample_type"],
        contrast=given["contrast"],
        on_bad_row=given["on_bad_row"],
        on_bad_image=given["on_bad_image"],
        plots=False,
    )
    return plan_scoring(particles, given["structure"], options, descriptor, conversion)


def _refuse_options_of_metadata(given: dict[str, Any]) -> None:
    changed = [
        name
        for name, default in _OF_METADATA.items()
        if given[name] != default and (given[name] or default)  # no list or an empty one
    ]
    if changed:
        words = ("class" if name == "class_label" else name for name in changed)
        flags = ", ".join(f"--{word.replace('_', '-')}" for word in words)
        msg = (
            f"{flags}: {given['particles']} is a converted set, whose images are taken as they "
            "are. Give the metadata file instead."
        )
        raise UsageError(msg)


def _read(given: dict[str, Any]) -> ParticleTable:
    table = read_particles(
        given["particles"],
        passthrough=given["passthrough"] or (),
        accept_ctf_applied=given["accept_ctf_applied"],
    )
    return opt.chosen_rows(
        table, given["rows"], given["random"], given["seed"], given["class_label"]
    )


def _add_problems_of_structures(error: CryoLikeError, structures: Sequence[Path]) -> None:
    """Raise what is wrong with structures as well, where anything is."""
    try:
        check_structures(structures, None)
    except CryoLikeError as others:
        raise_problems([*error.problems, *others.problems])


def _say_plan(plan: ScorePlan, told: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "n_images": plan.n_images,
                "n_skipped": len(plan.source.rejects),
                "structures": [structure.name for structure in plan.structures],
                "n_views": len(plan.views),
                "n_shifts": len(plan.displacements),
                "n_poses": plan.n_poses,
                "n_parts": len(plan.blocks) * len(plan.structures),
                "warnings": [*(n.message for n in plan.notices if n.level == "warning"), *told],
            }
        )
        return
    for notice in plan.notices:
        warn([notice.message], label=notice.level)
    say(plan.describe())
    say("dry run: nothing was written")


def _say_report(report: ScoreReport, told: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        content = report.to_dict()
        say_json(content | {"warnings": [*content["warnings"], *told]})
    else:
        say(report.describe(), style="green")
