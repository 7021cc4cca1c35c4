"""All of it on a small set simulated on the spot, with two structures that might explain it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mrcfile
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryolike.conversion import (
    ConversionReport,
    ConvertOptions,
    SetSummary,
    VerificationReport,
    convert,
    inspect_particles,
    plan_conversion,
    verify,
)
from cryolike.errors import CryoLikeWarning, OutputExistsError
from cryolike.io.star import read_star
from cryolike.particles import select_rows
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.plot import png_bytes
from cryolike.scoring.figures import draw_gallery, figure_of_likelihood_ratios
from cryolike.scoring.pictures import make_gallery
from cryolike.scoring.plan import ScoreOptions, ScorePlan, plan_scoring
from cryolike.scoring.run import ScoreReport, score_particles
from cryolike.simulate import BlobModel, asymmetric_particle, density_map, write_relion_set
from cryolike.store import StackSet, open_stacks
from cryolike.store.tiles import RECORD_NAME

__all__ = ["DemoResult", "run_demo"]

_MADE = {
    *("demo.png", "relion", "relion/particles.star", "relion/Particles", "converted"),
    *("converted/fft", "converted/plots", "converted/.cryolike-wip", "converted/manifest.json"),
    *("structures", "structures/true.mrc", "structures/turned.mrc"),
    *("scores", "scores/plots", "scores/.cryolike-wip", f"scores/{RECORD_NAME}"),
    *("scores/results.parquet", "scores/results.csv", "scores/log_likelihood_integrated.npy"),
    "scores/particles_scored.star",
}
"""What a demonstration leaves, also one that was interrupted."""

_PIXEL_SIZE_A = 2.0

_LOBE_TURN_RAD = float(np.deg2rad(20))
"""What tells the two structures apart."""

_VIEW_SPACING_RAD = float(np.deg2rad(6))
"""Fine enough for the 8 Å at which they are compared, since the particle has a radius of 58 Å."""

ProgressBars = Callable[..., AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demonstration made.

    Parameters
    ----------
    star_file
        The simulated set.
    summary
        What `inspect` says of it.
    conversion
        What `convert` did.
    verification
        What `verify` found.
    scores
        What scoring found.
    picture
        One picture that tells the story.
    """

    star_file: Path
    summary: SetSummary
    conversion: ConversionReport
    verification: VerificationReport
    scores: ScoreReport
    picture: Path


def run_demo(
    folder: Path,
    progress: ProgressBars,
    *,
    n_images: int = 600,
    n_pixels: int = 96,
    n_scored: int = 200,
    overwrite: bool = False,
) -> DemoResult:
    """Simulate a RELION 3.1 set, inspect it, convert it, verify the result, and draw it.

    Some of the images are scored against the structure they show, and against one in another
    conformation: a lobe of it is turned by 20°.

    Parameters
    ----------
    folder
        Where everything goes.
    progress
        Makes a progress bar, as `cryolike.progress.progress_bar` does.
    n_images, n_pixels
        Size of the set.
    n_scored
        How many images are scored, at most.
    overwrite
        Replace what an earlier demonstration left.

    Returns
    -------
    DemoResult
        Paths and reports.

    Raises
    ------
    OutputExistsError
        Where the folder holds anything and `overwrite` is false, or what no demonstration made.
    """
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            msg = f"{folder} is not empty. Choose another folder, or --overwrite."
            raise OutputExistsError(msg)
        _refuse_foreign_files(folder)
        for name in ("relion", "converted", "structures", "scores"):
            shutil.rmtree(folder / name, ignore_errors=True)
    with progress("simulating") as bar:
        star_file = write_relion_set(
            folder / "relion",
            n_images=n_images,
            n_pixels=n_pixels,
            pixel_size_A=_PIXEL_SIZE_A,
            model=_particle(n_pixels),
            progress=bar,
        )
    summary = inspect_particles(star_file)
    plan = plan_conversion(read_star(star_file))
    with progress("converting") as bar:
        conversion = convert(plan, folder / "converted", progress=bar)
    with progress("verifying", unit="files") as bar:
        verification = verify(folder / "converted", progress=bar)
    with warnings.catch_warnings():
        # That maps are resampled is meant
        warnings.simplefilter("ignore", CryoLikeWarning)
        score_plan = _plan_scores(folder, star_file, n_scored, n_pixels)
        scores = score_particles(score_plan, folder / "scores", progress=progress)
    picture = folder / "demo.png"
    figure = figure_of_demo(open_stacks(folder / "converted"), score_plan, scores)
    picture.write_bytes(png_bytes(figure))
    return DemoResult(
        star_file=star_file,
        summary=summary,
        conversion=conversion,
        verification=verification,
        scores=scores,
        picture=picture,
    )


def _particle(n_pixels: int, lobe_turn_rad: float = 0.0) -> BlobModel:
    return asymmetric_particle(0.3 * n_pixels * _PIXEL_SIZE_A, lobe_turn_rad=lobe_turn_rad)


def _plan_scores(folder: Path, star_file: Path, n_scored: int, n_pixels: int) -> ScorePlan:
    """Write the two structures, and plan to score some of the images against them.

    Half of the resolution suffices to tell the structures apart, and takes a tenth of the time.
    """
    table = read_star(star_file)
    (folder / "structures").mkdir()
    paths = [folder / "structures" / f"{name}.mrc" for name in ("true", "turned")]
    for path, turn_rad in zip(paths, (0.0, _LOBE_TURN_RAD), strict=True):
        density = density_map(_particle(n_pixels, turn_rad), n_pixels, _PIXEL_SIZE_A)
        with mrcfile.new(path) as file:
            file.set_data(density.astype(np.float32))
            file.voxel_size = _PIXEL_SIZE_A
    factor = 2 if n_pixels % 2 == 0 else 1
    return plan_scoring(
        select_rows(table, random=min(n_scored, len(table))),
        paths,
        ScoreOptions(viewing_distance=_VIEW_SPACING_RAD, shift_max_px=2.0, shift_step_px=0.5),
        conversion=ConvertOptions(downsample_factor=factor, downsample_type="fourier"),
    )


def _refuse_foreign_files(folder: Path) -> None:
    """Raise where replacing an earlier demonstration would delete anything else."""
    present = [*folder.glob("*"), *folder.glob("*/*")]
    foreign = [path for path in present if path.relative_to(folder).as_posix() not in _MADE]
    if foreign:
        msg = f"{min(foreign)} is not of an earlier demonstration. Choose another folder."
        raise OutputExistsError(msg)


def figure_of_demo(stacks: StackSet, plan: ScorePlan, report: ScoreReport) -> Figure:
    """Show what conversion and scoring make of a set.

    Above: an image, its polar transform, and that the images follow the CTF of their metadata.
    Below: images beside the templates that explain them best, and by how much the images prefer
    one structure to the other.

    The third panel sorts the points (18 to 8 Å) of the polar images with strong astigmatism along
    x or y by the CTF² that the metadata predicts there, and gives the mean power at each: a steep
    line where the prediction is right. With x and y exchanged the astigmatism is predicted on the
    wrong axis, and the line is flatter.

    Parameters
    ----------
    stacks
        A converted set.
    plan, report
        What was scored, and what was found.

    Returns
    -------
    matplotlib.figure.Figure
        Five panels.
    """
    row = int((stacks.table["defocus_u_A"] - stacks.table["defocus_v_A"]).abs().argmax())
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    above, below = cast("np.ndarray", figure.subfigures(2, 1))
    left, middle, right = above.subplots(1, 3, width_ratios=[1, 1.6, 1.5])
    _draw_image(left, stacks, row)
    _draw_polar_image(middle, stacks, row)
    _draw_power_by_ctf(right, stacks)
    left, right = below.subplots(1, 2, width_ratios=[2.6, 1.5])
    _draw_scores(left, right, plan, report)
    return figure


def _draw_scores(left: Axes, right: Axes, plan: ScorePlan, report: ScoreReport) -> None:
    scores = report.scores
    if scores is None:  # a new run has them
        return
    gallery = make_gallery(plan, scores, np.arange(len(scores)), 5)
    draw_gallery(left, gallery.images, gallery.templates, gallery.labels)
    left.set_title("images above what explains them best", fontsize=10, pad=34)
    figure_of_likelihood_ratios(scores.log_likelihood_integrated, scores.structures, right)


def _draw_image(axes: Axes, stacks: StackSet, row: int) -> None:
    source = stacks[row]
    with mrcfile.mmap(source.image_file, permissive=True) as stack:
        # mrcfile gives a stack of one image as 2-D
        pixels = np.array(stack.data.reshape(-1, *stack.data.shape[-2:])[source.image_index])
    axes.imshow(pixels, cmap="gray", vmin=np.percentile(pixels, 1), vmax=np.percentile(pixels, 99))
    axes.set_title(f"particle of row {source.source_row}", fontsize=10)
    axes.set_xlabel("x (pixels)")
    axes.set_ylabel("y (pixels)")


def _draw_polar_image(axes: Axes, stacks: StackSet, row: int) -> None:
    polar, grid = stacks.descriptor.polar_grid, stacks.descriptor.cartesian_grid
    modulus = np.log10(stacks[row].polar_image.abs().numpy() + 1e-12)
    edges = np.concatenate([[0.0], 2 * polar.radius_shells / grid.box_size_A])
    axes.pcolormesh(
        np.linspace(0, 360, polar.n_inplanes + 1),
        edges,
        modulus,
        cmap="magma",
        vmin=float(np.percentile(modulus, 5)),
        vmax=float(np.percentile(modulus, 99.8)),
    )
    axes.set_title("its polar Fourier image, log |F|", fontsize=10)
    axes.set_xlabel("θ (°)")
    axes.set_ylabel("spatial frequency (1/Å)")


def _draw_power_by_ctf(axes: Axes, stacks: StackSet) -> None:
    edges = np.linspace(0, 1, 21)
    centres = (edges[:-1] + edges[1:]) / 2
    for swapped, style, label in (
        (False, "o-", "axes as they are"),
        (True, "s--", "x and y exchanged"),
    ):
        power = power_by_ctf(stacks, edges, swapped=swapped)
        axes.plot(centres, power, style, ms=4, label=label)
    n_images = int(_is_astigmatic(stacks).sum())
    axes.set_title(f"{n_images} images against their metadata", fontsize=10)
    axes.set_xlabel("CTF² that the metadata predicts")
    axes.set_ylabel("power, relative to its shell")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def power_by_ctf(stacks: StackSet, edges: np.ndarray, *, swapped: bool = False) -> np.ndarray:
    """Mean power of polar images where the metadata predicts certain values of CTF².

    Parameters
    ----------
    stacks
        A converted set.
    edges
        Edges of the bins of CTF², (n + 1,).
    swapped
        Predict with the x and y axes exchanged.

    Returns
    -------
    ndarray
        (n,): power relative to the mean of all images on the same shell.
    """
    polar, box_A = stacks.descriptor.polar_grid, stacks.descriptor.cartesian_grid.box_size_A
    frequency = 2 * polar.radius_shells / box_A
    shells = np.flatnonzero((frequency > 1 / 18) & (frequency < 1 / 8))
    chosen = _is_astigmatic(stacks)
    theta = np.pi / 2 - polar.theta_shell if swapped else polar.theta_shell
    power = torch.cat([images[:, shells].abs().square() for images in stacks])[chosen]
    relative = (power / power.mean(dim=(0, 2), keepdim=True)).numpy()
    ctf = ctf_on_polar_grid(
        CtfParameters.from_frame(stacks.table[chosen]), polar.radius_shells[shells], theta, box_A
    ).numpy()
    bins = np.digitize(ctf**2, edges[1:-1])
    totals = np.bincount(bins.ravel(), weights=relative.ravel(), minlength=len(edges) - 1)
    return totals / np.bincount(bins.ravel(), minlength=len(edges) - 1)


def _is_astigmatic(stacks: StackSet) -> np.ndarray:
    """Which images would show it if x and y were exchanged; all, where few would."""
    table = stacks.table
    difference_A = (table["defocus_u_A"] - table["defocus_v_A"]).to_numpy()
    along_axes_A = np.abs(difference_A * np.cos(2 * table["defocus_angle_rad"].to_numpy()))
    chosen = along_axes_A > 1200
    return chosen if chosen.sum() >= 20 else np.ones_like(chosen)
