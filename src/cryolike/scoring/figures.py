"""Pictures of scores. Every function returns a figure and touches no global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = [
    "draw_gallery",
    "figure_of_correlations",
    "figure_of_directions",
    "figure_of_gallery",
    "figure_of_likelihood_ratios",
    "figure_of_pose_sharpness",
]

_N_COMPARED_MOST = 5
"""Structures that are compared with the best one in a picture."""


def figure_of_likelihood_ratios(
    log_likelihood: np.ndarray, structures: Sequence[str], axes: Axes | None = None
) -> Figure:
    """Show by how much each image prefers the best structure to each other one.

    Parameters
    ----------
    log_likelihood
        Integrated, nats, (n_images, n_structures); at least two structures.
    structures
        Their names.
    axes
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.figure.Figure
        A histogram for each other structure, at most five of them, the most likely first.
    """
    order = np.argsort(-log_likelihood.sum(axis=0), kind="stable")
    best, others = order[0], order[1 : 1 + _N_COMPARED_MOST]
    ratios = log_likelihood[:, [best]] - log_likelihood[:, others]
    axes = axes or _new_axes()
    edges = _edges(ratios)
    axes.axvspan(edges[0], 0, color="0.93", linewidth=0)
    for ratio, other in zip(ratios.T, others, strict=True):
        axes.hist(
            np.clip(ratio, edges[0], edges[-1]),
            edges.tolist(),
            histtype="stepfilled" if len(others) == 1 else "step",
            linewidth=1.5,
            label=_share(ratio, structures[best], structures[other]),
        )
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xlim(edges[0], edges[-1])
    only = structures[others[0]] if len(others) == 1 else "the other structure"
    axes.set_xlabel(f"log-likelihood under {structures[best]} − under {only} (nats)")
    _count_images(axes)
    if len(others) == 1:
        axes.set_title(_share(ratios[:, 0], structures[best], only), fontsize=10)
    else:
        _legend_above(axes)
    return _figure_of(axes)


def _share(ratio: np.ndarray, best: str, other: str) -> str:
    """How many images prefer the best structure, in words."""
    share = 100 * np.mean(ratio > 0)
    total = f"{ratio.sum():+,.0f}".replace("-", "−")
    return f"{share:.3g} % prefer {best} to {other}, together {total} nats"


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of bins, zero among them; what lies far outside goes into the outermost bins."""
    low, high = np.percentile(values, [0.5, 99.5])
    reach = 0.5 * (high - low)
    low = min(max(float(values.min()), low - reach), 0.0)
    high = max(min(float(values.max()), high + reach), 0.0)
    if low == high:  # all are equal
        return np.array([-1.0, 0.0, 1.0])
    width = (high - low) / _n_bins(len(values))
    edges: np.ndarray = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)
    return edges


def _n_bins(n_values: int) -> int:
    return int(np.clip(2 * np.sqrt(n_values), 10, 50))


def _count_images(axes: Axes) -> None:
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def figure_of_pose_sharpness(
    optimal: np.ndarray, integrated: np.ndarray, most: float, structure: str
) -> Figure:
    """Show how sharply the pose of each image is determined.

    The log-likelihood at the best pose exceeds that of all poses together by the logarithm of one
    over the fraction of poses that explain the image: by nothing where all poses do equally well,
    by the logarithm of their number where a single one does.

    Parameters
    ----------
    optimal, integrated
        Log-likelihoods at the best pose and integrated over all poses, nats, (n_images,).
    most
        What a single pose makes of it: −log of its prior probability, nats.
    structure
        Its name.

    Returns
    -------
    matplotlib.figure.Figure
    """
    axes = _new_axes()
    sharpness = optimal - integrated
    limits = min(0.0, float(sharpness.min())), max(most, float(sharpness.max()))
    axes.hist(sharpness, np.linspace(*limits, 60).tolist())
    axes.axvline(most, color="black", linewidth=1, label="a single pose of those tried")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_xlabel("log-likelihood at the best pose − over all poses (nats)")
    _count_images(axes)
    axes.set_title(f"How sharply {structure} determines each image's pose", fontsize=10)
    return _figure_of(axes)


def figure_of_correlations(correlation: np.ndarray, structures: Sequence[str]) -> Figure:
    """Show the cross-correlation of images with their best templates.

    Parameters
    ----------
    correlation
        (n_images, n_structures).
    structures
        Their names.

    Returns
    -------
    matplotlib.figure.Figure
        A histogram for each structure, at most six of them, the largest mean first.
    """
    order = np.argsort(-correlation.mean(axis=0), kind="stable")[: 1 + _N_COMPARED_MOST]
    axes = _new_axes()
    low, high = float(correlation[:, order].min()), float(correlation[:, order].max())
    edges = np.linspace(low, max(high, low + 1e-6), 1 + _n_bins(len(correlation)))
    for i in order:
        label = f"{structures[i]}: median {np.median(correlation[:, i]):.3f}"
        axes.hist(correlation[:, i], edges.tolist(), histtype="step", linewidth=1.5, label=label)
    axes.set_xlabel("cross-correlation at the best pose")
    _count_images(axes)
    _legend_above(axes)
    return _figure_of(axes)


def figure_of_directions(
    rot_rad: np.ndarray, tilt_rad: np.ndarray, spacing_rad: float, title: str
) -> Figure:
    """Show how densely the best poses cover the sphere of viewing directions.

    Parameters
    ----------
    rot_rad, tilt_rad
        RELION's angles, (n_images,).
    spacing_rad
        Of the viewing directions that were tried.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Mollweide's equal-area map; the density is 1 where directions are uniform.
    """
    n_images = len(rot_rad)
    width_rad = float(np.clip(0.7 * np.sqrt(4 * np.pi / n_images), spacing_rad, np.deg2rad(20)))
    rot_edges, tilt_edges = np.linspace(-np.pi, np.pi, 181), np.linspace(0, np.pi, 91)
    rot, tilt = (e[:-1] + np.diff(e) / 2 for e in (rot_edges, tilt_edges))
    density = _density_on_sphere(
        _unit_vectors(*np.meshgrid(rot, tilt)), _unit_vectors(rot_rad, tilt_rad), width_rad
    )
    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    shown = axes.pcolormesh(
        rot_edges,
        np.pi / 2 - tilt_edges,
        density,
        cmap="viridis",
        vmin=0,
        vmax=max(2.0, float(density.max())),
        rasterized=True,
    )
    if n_images <= 2000:
        pairs = np.stack([(rot_rad + np.pi) % (2 * np.pi) - np.pi, np.pi / 2 - tilt_rad])
        (x, y), count = np.unique(np.round(pairs, 6), axis=1, return_counts=True)
        axes.scatter(x, y, s=3 * count, color="white", alpha=0.6, linewidths=0)
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]))
    axes.set_xticklabels(["−120°", "−60°", "rot 0°", "60°", "120°"], color="white", fontsize=8)
    axes.set_yticks(np.deg2rad([60, 30, 0, -30, -60]))
    axes.set_yticklabels(["tilt 30°", "60°", "90°", "120°", "150°"], fontsize=8)
    axes.grid(alpha=0.25)
    figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.02, label="density (1 is uniform)")
    axes.set_title(title, fontsize=10)
    return figure


def _unit_vectors(rot_rad: np.ndarray, tilt_rad: np.ndarray) -> np.ndarray:
    sine = np.sin(tilt_rad)
    return np.stack([sine * np.cos(rot_rad), sine * np.sin(rot_rad), np.cos(tilt_rad)], axis=-1)


def _density_on_sphere(where: np.ndarray, directions: np.ndarray, width_rad: float) -> np.ndarray:
    """Density of directions relative to a uniform one, smoothed (von Mises and Fisher's kernel)."""
    concentration = width_rad**-2
    distinct, count = np.unique(np.round(directions, 2), axis=0, return_counts=True)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    norm = 2 * concentration / -np.expm1(-2 * concentration) / count.sum()
    density = np.zeros(where.shape[:-1])
    for start in range(0, len(distinct), 1000):
        few = slice(start, start + 1000)
        closeness = where @ distinct[few].T
        density += norm * (np.exp(concentration * (closeness - 1)) @ count[few])
    return density


def figure_of_gallery(
    images: np.ndarray, templates: np.ndarray, labels: Sequence[str], title: str
) -> Figure:
    """Show images above the templates that explain them best, at the same contrast.

    Parameters
    ----------
    images, templates
        Pixels, (n, N, N); the templates as the microscope would show them.
    labels
        Of each pair.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = len(images)
    figure = Figure(figsize=(0.4 + 1.3 * n, 3.4))
    axes = figure.add_axes((0.3 / (0.4 + 1.3 * n), 0.0, 1.3 * n / (0.4 + 1.3 * n), 0.8))
    draw_gallery(axes, images, templates, labels)
    figure.suptitle(title, fontsize=10, y=0.985)
    return figure


def draw_gallery(
    axes: Axes, images: np.ndarray, templates: np.ndarray, labels: Sequence[str]
) -> None:
    """Draw images above their templates, side by side.

    Parameters
    ----------
    axes
        Where to draw.
    images, templates, labels
        As in `figure_of_gallery`.
    """
    n, side = images.shape[:2]
    step = side + max(2, side // 24)
    # One call to draw is far quicker than axes for each
    sheet = np.full((2 * step, n * step), np.nan)
    for i, pair in enumerate(zip(images, templates, strict=True)):
        low, high = np.percentile(pair[0], [0.5, 99.5])
        for j, pixels in enumerate(pair):
            grey = (pixels - low) / (high - low)
            sheet[j * step : j * step + side, i * step : i * step + side] = grey
    axes.imshow(sheet[: 2 * step - step + side], cmap="gray", vmin=0, vmax=1)
    for i, label in enumerate(labels):
        axes.text(i * step + side / 2, -0.06 * side, label, fontsize=8, ha="center", va="bottom")
    for j, name in enumerate(("image", "template")):
        middle = j * step + side / 2
        axes.text(-0.06 * side, middle, name, rotation=90, ha="right", va="center", fontsize=10)
    axes.set_axis_off()


def _new_axes() -> Axes:
    return Figure(figsize=(6.4, 3.8), layout="constrained").subplots()


def _figure_of(axes: Axes) -> Figure:
    return cast("Figure", axes.get_figure(root=True))


def _legend_above(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
