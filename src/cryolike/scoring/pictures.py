"""What the pictures of a scored set show: its scores, and a few images beside their templates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.inverse_polar import pixels_of_polar_images
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.figures import (
    figure_of_correlations,
    figure_of_directions,
    figure_of_gallery,
    figure_of_likelihood_ratios,
    figure_of_pose_sharpness,
)
from cryolike.scoring.plan import ScorePlan, templates_of
from cryolike.store.scores import ScoreTable

__all__ = ["Gallery", "as_seen", "draw_scores", "make_gallery", "picture_names"]

N_SHOWN = 8
"""Images that are shown beside their templates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """Images and the templates that explain them best, in pixels.

    Parameters
    ----------
    images, templates
        (n, N, N); the templates as the microscope would show them.
    labels
        Of each pair.
    low_pass_A
        What is finer was taken away from both.
    """

    images: np.ndarray
    templates: np.ndarray
    labels: tuple[str, ...]
    low_pass_A: float


def picture_names(n_structures: int) -> tuple[str, ...]:
    """Name the pictures that `draw_scores` draws."""
    return _first_picture(n_structures), "correlations", "directions", "gallery"


def _first_picture(n_structures: int) -> str:
    return "likelihood_ratios" if n_structures > 1 else "pose_sharpness"


def draw_scores(plan: ScorePlan, scores: ScoreTable, rows: np.ndarray) -> dict[str, Figure]:
    """Draw what was found.

    Parameters
    ----------
    plan
        That was carried out.
    scores
        Of all images that could be scored.
    rows
        Their positions in the table of the plan's source.

    Returns
    -------
    dict of str to Figure
        By the names of the files.
    """
    best, images = scores.best_structure, np.arange(len(scores))
    ratios = (
        figure_of_likelihood_ratios(scores.log_likelihood_integrated, scores.structures)
        if len(scores.structures) > 1
        else figure_of_pose_sharpness(
            scores.log_likelihood_optimal[:, 0],
            scores.log_likelihood_integrated[:, 0],
            plan.rarest_pose_nats,
            scores.structures[0],
        )
    )
    gallery = make_gallery(plan, scores, rows)
    return {
        _first_picture(len(scores.structures)): ratios,
        "correlations": figure_of_correlations(scores.cross_correlation, scores.structures),
        "directions": figure_of_directions(
            scores.rot_rad[images, best],
            scores.tilt_rad[images, best],
            plan.descriptor.viewing_distance,
            f"Viewing directions of {len(scores):,} images, each under its best structure",
        ),
        "gallery": figure_of_gallery(
            gallery.images,
            gallery.templates,
            gallery.labels,
            f"Images and their best templates, without what is finer than "
            f"{gallery.low_pass_A:.3g} Å",
        ),
    }


def make_gallery(
    plan: ScorePlan, scores: ScoreTable, rows: np.ndarray, n_shown: int = N_SHOWN
) -> Gallery:
    """Put images, taken evenly from the set, beside what explains them best.

    Parameters
    ----------
    plan, scores, rows
        As in `draw_scores`.
    n_shown
        How many images.

    Returns
    -------
    Gallery
    """
    shown = np.unique(np.linspace(0, len(rows) - 1, n_shown).astype(np.int64))
    wanted = {int(i): range(int(rows[i]), int(rows[i]) + 1) for i in shown}
    blocks = list(plan.source.blocks(wanted, "cpu", skip_unusable=True))
    images = torch.cat([block.images for block in blocks])
    ctf = torch.cat([block.ctf for block in blocks])
    templates = torch.empty_like(images)
    best = scores.best_structure[shown]
    for number in np.unique(best):
        mine = np.flatnonzero(best == number)
        templates[mine] = _templates(plan, scores, shown[mine], int(number))
    seen = templates * ctf.to(templates.dtype)
    weight = torch.from_numpy(plan.descriptor.polar_grid.point_weight_shells)[:, None]
    scale = (weight * (seen.conj() * images).real).sum(dim=(1, 2)) / (
        weight * seen.abs().square()
    ).sum(dim=(1, 2))
    grid = plan.descriptor.cartesian_grid
    low_pass_A = max(plan.descriptor.resolution_A, grid.box_size_A / 12)
    correlation = scores.cross_correlation[shown, best]
    return Gallery(
        images=pixels_of_polar_images(images, plan.descriptor, low_pass_A),
        templates=pixels_of_polar_images(
            seen * scale.to(seen.dtype)[:, None, None], plan.descriptor, low_pass_A
        ),
        labels=tuple(
            f"row {scores.source_row[i]}: {_short(scores.structures[s])}\ncorrelation {x:.2f}"
            for i, s, x in zip(shown, best, correlation, strict=True)
        ),
        low_pass_A=low_pass_A,
    )


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _templates(plan: ScorePlan, scores: ScoreTable, images: np.ndarray, structure: int) -> Tensor:
    """Templates of some images' best poses, turned and displaced, without CTF."""
    views = ViewingDirections(
        scores.rot_rad[images, structure],
        scores.tilt_rad[images, structure],
        np.full(len(images), 1 / len(images)),
    )
    templates = templates_of(plan, plan.structures[structure], views=views)
    return as_seen(
        templates.images,
        plan.descriptor,
        scores.psi_rad[images, structure],
        scores.shift_x_A[images, structure],
        scores.shift_y_A[images, structure],
    )


def as_seen(
    templates: Tensor,
    descriptor: ImageDescriptor,
    psi_rad: np.ndarray,
    shift_x_A: np.ndarray,
    shift_y_A: np.ndarray,
) -> Tensor:
    """Turn and displace templates, by any angle and distance.

    Parameters
    ----------
    templates
        Complex, (n, n_shells, n_inplanes), of psi = 0.
    descriptor
        Of the templates.
    psi_rad
        RELION's angle, (n,): the image is F(k, θ + psi).
    shift_x_A, shift_y_A
        Displacement of the particle from the origin pixel, (n,).

    Returns
    -------
    Tensor
        Of the shape of the templates.
    """
    polar, box_A = descriptor.polar_grid, descriptor.cartesian_grid.box_size_A
    frequency = np.fft.fftfreq(polar.n_inplanes, 1 / polar.n_inplanes)
    turn = torch.from_numpy(np.exp(1j * psi_rad[:, None] * frequency))[:, None, :]
    turned = torch.fft.ifft(torch.fft.fft(templates.to(torch.complex128), dim=-1) * turn, dim=-1)
    along_A = shift_x_A[:, None] * np.cos(polar.theta_shell) + shift_y_A[:, None] * np.sin(
        polar.theta_shell
    )
    cycles = 2 * polar.radius_shells[:, None] / box_A * along_A[:, None, :]
    displaced: Tensor = turned * torch.from_numpy(np.exp(-2j * np.pi * cycles))
    return displaced.to(templates.dtype)
