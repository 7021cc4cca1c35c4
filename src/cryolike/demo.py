"""All of it on a small set simulated on the spot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cryolike.conversion import (
    ConversionReport,
    SetSummary,
    VerificationReport,
    convert,
    inspect_particles,
    plan_conversion,
    verify,
)
from cryolike.errors import OutputExistsError
from cryolike.io.star import read_star
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.plot import png_bytes
from cryolike.simulate import write_relion_set
from cryolike.store import StackSet, open_stacks

__all__ = ["DemoResult", "run_demo"]

ProgressBars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


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
    picture
        One picture that tells the story.
    """

    star_file: Path
    summary: SetSummary
    conversion: ConversionReport
    verification: VerificationReport
    picture: Path


def run_demo(
    folder: Path,
    progress: ProgressBars,
    *,
    n_images: int = 600,
    n_pixels: int = 96,
    overwrite: bool = False,
) -> DemoResult:
    """Simulate a RELION 3.1 set, inspect it, convert it, verify the result, and draw it.

    Parameters
    ----------
    folder
        Where everything goes.
    progress
        Makes a progress bar for a title.
    n_images, n_pixels
        Size of the set.
    overwrite
        Replace what an earlier demonstration left.

    Returns
    -------
    DemoResult
        Paths and reports.

    Raises
    ------
    OutputExistsError
        Where the folder holds anything and `overwrite` is false.
    """
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            msg = f"{folder} is not empty. Choose another folder, or --overwrite."
            raise OutputExistsError(msg)
        for name in ("relion", "converted"):
            shutil.rmtree(folder / name, ignore_errors=True)
    with progress("simulating") as bar:
        star_file = write_relion_set(
            folder / "relion", n_images=n_images, n_pixels=n_pixels, progress=bar
        )
    summary = inspect_particles(star_file)
    plan = plan_conversion(read_star(star_file))
    with progress("converting") as bar:
        conversion = convert(plan, folder / "converted", progress=bar)
    with progress("verifying") as bar:
        verification = verify(folder / "converted", progress=bar)
    picture = folder / "demo.png"
    picture.write_bytes(png_bytes(figure_of_set(open_stacks(folder / "converted"))))
    return DemoResult(
        star_file=star_file,
        summary=summary,
        conversion=conversion,
        verification=verification,
        picture=picture,
    )


def figure_of_set(stacks: StackSet) -> Figure:
    """Show that each image follows its own CTF, astigmatism included.

    Images are turned so that the axes of their astigmatism coincide, and those of similar defocus
    are averaged in power: the rings of the mean are those of the mean CTF².

    Parameters
    ----------
    stacks
        A converted set.

    Returns
    -------
    matplotlib.figure.Figure
        Power of the images beside CTF² of the metadata.
    """
    descriptor, table = stacks.descriptor, stacks.table
    polar = descriptor.polar_grid
    astigmatism = (table["defocus_u_A"] - table["defocus_v_A"]).abs()
    mean_defocus = (table["defocus_u_A"] + table["defocus_v_A"]) / 2
    chosen = np.flatnonzero((astigmatism > 1500) & (mean_defocus.between(9000, 14000)))[:64]
    power = np.zeros((polar.n_shells, polar.n_inplanes))
    ctf_squared = np.zeros_like(power)
    for i in chosen:
        row = table.iloc[[i]]
        turn = -round(float(row["defocus_angle_rad"].iloc[0]) / (2 * np.pi) * polar.n_inplanes)
        ctf = ctf_on_polar_grid(
            CtfParameters.from_frame(row),
            polar.radius_shells,
            polar.theta_shell,
            descriptor.cartesian_grid.box_size_A,
        )
        ctf_squared += np.roll(ctf[0].numpy() ** 2, turn, axis=1)
        power += np.roll(stacks[int(i)].polar_image.abs().numpy() ** 2, turn, axis=1)
    return _two_spectra(power, ctf_squared, stacks, len(chosen))


def _two_spectra(
    power: np.ndarray, ctf_squared: np.ndarray, stacks: StackSet, n_images: int
) -> Figure:
    descriptor = stacks.descriptor
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    frequency = 2 * descriptor.polar_grid.radius_shells / descriptor.cartesian_grid.box_size_A
    extent = (0.0, 360.0, 0.0, float(frequency[-1]))
    left, right = figure.subplots(1, 2, sharey=True)
    shown = np.log10(power / power.mean(axis=1, keepdims=True).clip(1e-30))
    for axes, values, title in (
        (left, shown, f"power of {n_images} polar images (log, each shell about its mean)"),
        (right, ctf_squared, "CTF² of the same images, from the metadata"),
    ):
        axes.pcolormesh(
            np.linspace(*extent[:2], values.shape[1] + 1),
            np.concatenate([[0], frequency]),
            values,
            cmap="magma",
            vmin=float(np.percentile(values, 2)),
            vmax=float(np.percentile(values, 99)),
        )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("angle from the axis of defocus U (°)")
    left.set_ylabel("spatial frequency (1/Å)")
    return figure
