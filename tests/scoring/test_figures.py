"""Pictures of scores: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from cryolike.plot import png_bytes
from cryolike.scoring import figures
from cryolike.scoring.figures import (
    figure_of_correlations,
    figure_of_directions,
    figure_of_gallery,
    figure_of_likelihood_ratios,
    figure_of_pose_sharpness,
)

RNG = np.random.default_rng(0)


def heights(figure: Figure) -> np.ndarray:
    """Heights of the bars of a filled histogram of one kind."""
    return np.array([patch.get_height() for patch in _filled(figure).patches])


def _filled(figure: Figure) -> BarContainer:
    (container,) = [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]
    return container


def outlines_of(figure: Figure) -> list[np.ndarray]:
    """Corners of the outlined histograms."""
    corners = [np.asarray(patch.get_path().vertices) for patch in figure.axes[0].patches]
    return [vertices for vertices in corners if len(vertices) > 10]


def legend_of(figure: Figure) -> list[str]:
    """Give the texts of the legend."""
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_likelihood_ratios_of_two_structures() -> None:
    """The structure with the larger sum is the best one; each image is counted once."""
    ratio = np.concatenate([RNG.normal(5, 3, 199), [1000.0]])
    matrix = np.stack([-ratio, np.zeros(200)], axis=1)
    figure = figure_of_likelihood_ratios(matrix, ["bad", "good"])
    axes = figure.axes[0]
    share = 100 * (ratio > 0).mean()
    assert (
        axes.get_title() == f"{share:.3g} % prefer good to bad, together +{ratio.sum():,.0f} nats"
    )
    assert axes.get_xlabel() == "log-likelihood under good − under bad (nats)"
    assert len(outlines_of(figure)) == 1
    # One image a thousand nats away does not squeeze the others into one bin
    assert axes.get_xlim()[1] < 50
    assert axes.get_xlim()[0] <= 0


def test_zero_is_an_edge_of_bins() -> None:
    """No bin holds images of both preferences."""
    edges = figures._edges(RNG.normal(0.3, 2, (500, 2)))
    assert np.abs(edges).min() == 0
    assert edges[0] < 0 < edges[-1]


def test_likelihood_ratios_of_many_structures() -> None:
    """At most five others are shown, those with the largest likelihoods, each in the legend."""
    matrix = np.zeros((50, 9)) - np.arange(9)
    names = [f"s{i}" for i in range(9)]
    figure = figure_of_likelihood_ratios(matrix[:, ::-1], names)
    texts = legend_of(figure)
    assert [text.split(",")[0] for text in texts] == [
        f"100 % prefer s8 to s{i}" for i in (7, 6, 5, 4, 3)
    ]


def test_equal_structures_can_be_drawn() -> None:
    """Ratios that are all zero make a picture all the same."""
    figure = figure_of_likelihood_ratios(np.ones((10, 2)), ["a", "b"])
    assert "0 % prefer a to b" in figure.axes[0].get_title()
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_pose_sharpness() -> None:
    """All images are counted, also those beyond the line of a single pose."""
    optimal = RNG.uniform(0, 14, 100)
    figure = figure_of_pose_sharpness(optimal, np.zeros(100), 12.0, "a")
    assert heights(figure).sum() == 100
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_xdata()).tolist() == [12.0, 12.0]


def test_correlations() -> None:
    """Structures are in order of their mean; medians are told."""
    values = np.array([[0.1, 0.5], [0.2, 0.7], [0.3, 0.6]])
    figure = figure_of_correlations(values, ["a", "b"])
    texts = legend_of(figure)
    assert texts == ["b: median 0.600", "a: median 0.200"]


def test_density_is_one_where_directions_are_uniform() -> None:
    """Its mean over the sphere is 1; many uniform directions give 1 everywhere."""
    directions = RNG.normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    where = RNG.normal(size=(500, 3))
    where /= np.linalg.norm(where, axis=1, keepdims=True)
    density = figures._density_on_sphere(where, directions, 0.3)
    assert density.mean() == pytest.approx(1, abs=0.02)
    assert np.abs(density - 1).max() < 0.2
    one = figures._density_on_sphere(where, directions[:1], 0.3)
    assert np.argmax(one) == np.argmax(where @ directions[0])


@pytest.mark.parametrize(("rot_deg", "tilt_deg"), [(60, 90), (-150, 40), (200, 120)])
def test_directions_are_where_they_belong(rot_deg: float, tilt_deg: float) -> None:
    """The densest place is at longitude rot and latitude 90° − tilt."""
    rng = np.random.default_rng(1)
    rot = np.deg2rad(rot_deg + rng.normal(0, 3, 100))
    tilt = np.deg2rad(tilt_deg + rng.normal(0, 3, 100))
    axes = figure_of_directions(rot, tilt, 0.08, "title").axes[0]
    (mesh,) = [item for item in axes.collections if isinstance(item, QuadMesh)]
    density = np.asarray(mesh.get_array())
    row, column = np.unravel_index(density.argmax(), density.shape)
    corners = np.rad2deg(np.asarray(mesh.get_coordinates()))
    longitude, latitude = corners[row : row + 2, column : column + 2].mean(axis=(0, 1))
    assert longitude == pytest.approx((rot_deg + 180) % 360 - 180, abs=4)
    assert latitude == pytest.approx(90 - tilt_deg, abs=4)


def test_one_direction_can_be_drawn() -> None:
    """A single image is enough."""
    figure = figure_of_directions(np.zeros(1), np.zeros(1), 0.08, "title")
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_gallery_has_one_contrast_a_pair() -> None:
    """Image and template of a pair are drawn with the same limits, those of the image."""
    images = RNG.normal(size=(3, 16, 16)) * np.array([1, 10, 100])[:, None, None]
    figure = figure_of_gallery(images, 0.1 * images, ["a", "b", "c"], "title")
    (shown,) = figure.axes[0].images
    sheet = np.asarray(shown.get_array())
    pairs = [sheet[:, 18 * i : 18 * i + 16] for i in range(3)]
    for pair, image in zip(pairs, images, strict=True):
        low, high = np.percentile(image, [0.5, 99.5])
        assert pair[:16] * (high - low) + low == pytest.approx(image)
        assert pair[18:34] * (high - low) + low == pytest.approx(0.1 * image)
    assert [text.get_text() for text in figure.axes[0].texts[:3]] == ["a", "b", "c"]
