"""Viewing directions: how many, how far apart, and whether they integrate over the sphere."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import sph_harm_y

from cryolike.errors import UsageError
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.views import ViewingDirections, angular_distance_rad


@pytest.mark.parametrize(
    ("viewing_distance", "n_views"), [(1 / (4 * np.pi), 2370), (0.18, 564), (1.0, 58), (50.0, 15)]
)
def test_number_of_directions(viewing_distance: float, n_views: int) -> None:
    """The default spacing gives 2,370 directions; weights are positive and sum to 1."""
    views = ViewingDirections.of_spacing(viewing_distance)
    assert len(views) == n_views
    assert views.weights.min() > 0
    assert views.weights.sum() == pytest.approx(1, abs=1e-14)


def test_number_of_rings_and_of_directions_on_them() -> None:
    """For a = 20: 3 + ⌈23/2⌉ rings, with 3 + round(20 sin tilt) even steps from 0 on each."""
    views = ViewingDirections.of_spacing(2 * np.pi / 20)
    tilts_rad, counts = np.unique(views.tilt_rad, return_counts=True)
    assert len(tilts_rad) == 3 + 12
    np.testing.assert_array_equal(counts, 3 + np.round(20 * np.sin(tilts_rad)))
    assert (np.diff(views.tilt_rad) >= 0).all()
    for tilt_rad, count in zip(tilts_rad, counts, strict=True):
        on_ring = views.rot_rad[views.tilt_rad == tilt_rad]
        np.testing.assert_allclose(on_ring, 2 * np.pi * np.arange(count) / count, atol=1e-15)


def test_harmonics_are_integrated() -> None:
    """The mean of spherical harmonics is exact up to the degree that the rings can tell."""
    views = ViewingDirections.of_spacing(2 * np.pi / 40)
    for degree, order in itertools.product(range(1, 30), range(4)):
        if order <= degree:
            values = sph_harm_y(degree, order, views.tilt_rad, views.rot_rad)
            assert abs((views.weights * values).sum()) < 2e-4
    for degree in range(1, 45):
        values = sph_harm_y(degree, 0, views.tilt_rad, views.rot_rad)
        assert abs((views.weights * values).sum()) < 1e-13


def test_smooth_function_is_integrated() -> None:
    """The mean of exp(a·u) over directions u is sinh|a|/|a|, for any axis a."""
    views = ViewingDirections.of_spacing(0.3)
    for axis in np.random.default_rng(0).normal(size=(5, 3)):
        size = np.linalg.norm(3 * axis)
        mean = (views.weights * np.exp(views.unit_vectors @ (3 * axis))).sum()
        assert mean == pytest.approx(np.sinh(size) / size, rel=1e-4)


def test_no_direction_is_far() -> None:
    """Any direction has a view within about the spacing, and views are not much closer."""
    spacing = 0.15
    views = ViewingDirections.of_spacing(spacing)
    anywhere = np.random.default_rng(1).normal(size=(500, 3))
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    distance_rad = angular_distance_rad(anywhere[:, None], views.unit_vectors[None])
    assert distance_rad.min(axis=1).max() < spacing


def test_unit_vectors_are_the_axes_of_projection() -> None:
    """They are the last rows of RELION's matrices."""
    views = ViewingDirections.of_spacing(0.5)
    np.testing.assert_allclose(
        rotation_matrices(views.euler_rad)[:, 2], views.unit_vectors, atol=1e-15
    )


@pytest.mark.parametrize("angle_rad", [0.0, 1e-9, 1.0, np.pi - 1e-9, np.pi])
def test_angular_distance_is_accurate_everywhere(angle_rad: float) -> None:
    """Also for tiny angles, and almost opposite directions."""
    one = np.array([1.0, 0, 0])
    other = np.array([np.cos(angle_rad), np.sin(angle_rad), 0])
    assert float(angular_distance_rad(one, other)) == pytest.approx(angle_rad, abs=1e-15)


@pytest.mark.parametrize("viewing_distance", [0.0, -1.0, float("nan"), float("inf"), 1e-6])
def test_impossible_spacing_is_refused(viewing_distance: float) -> None:
    """The error names the option and its value."""
    with pytest.raises(UsageError, match="viewing_distance is"):
        ViewingDirections.of_spacing(viewing_distance)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": np.array([0.5, 0.6])}, "sum"),
        ({"weights": np.array([1.5, -0.5])}, "positive"),
        ({"rot_rad": np.array([np.nan, 0.0])}, "finite"),
        ({"rot_rad": np.zeros(3)}, "shapes"),
        (dict.fromkeys(("rot_rad", "tilt_rad", "weights"), np.zeros(0)), "at least one"),
    ],
)
def test_impossible_directions_are_refused(changed: dict[str, Any], message: str) -> None:
    """Weights that are no fractions, and arrays that do not fit together, raise an error."""
    values: dict[str, Any] = {
        "rot_rad": np.zeros(2),
        "tilt_rad": np.zeros(2),
        "weights": np.full(2, 0.5),
    }
    with pytest.raises(UsageError, match=message):
        ViewingDirections(**(values | changed))
