"""Atoms sampled on voxels; that their transform is kept is tested with the slices."""

from __future__ import annotations

import numpy as np
import pytest

from cryolike.physics.atom_grid import SmoothCut, density_of_atoms
from cryolike.physics.scattering import AtomicModel, bead_form_factors


def beads(positions_A: np.ndarray, radius_A: float) -> AtomicModel:
    """Equal Gaussians."""
    n_atoms = len(positions_A)
    return AtomicModel(
        "beads",
        positions_A,
        np.zeros(n_atoms, dtype=np.int64),
        np.linspace(1, 2, n_atoms),
        bead_form_factors(np.array([radius_A]), "gaussian"),
    )


@pytest.mark.parametrize("sharpness", [8.0, 15.0, 30.0])
def test_cut_passes_and_stops(sharpness: float) -> None:
    """It is 1 up to one frequency, 0 from the other on, and falls evenly in between."""
    cut = SmoothCut(0.2, 0.3, sharpness)
    np.testing.assert_array_equal(cut(np.array([0.0, 0.1, 0.2])), 1)
    np.testing.assert_array_equal(cut(np.array([0.3, 0.4])), 0)
    between = cut(np.linspace(0.2, 0.3, 201))
    assert np.diff(between).max() < 1e-12
    np.testing.assert_allclose(between + between[::-1], 1, atol=1e-12)


def test_wide_gaussians_are_sampled_as_they_are() -> None:
    """What has nothing to cut off comes out as its density, axes z, y, x."""
    positions_A, radius_A = np.array([[3.0, -2.0, 5.0], [-4.0, 1.0, 0.5]]), 4.0
    model = beads(positions_A, radius_A)
    density = density_of_atoms(model, 0.3, 1e-6, 1)
    n = len(density.values)
    z, y, x = (np.indices(density.values.shape) - n // 2) * density.voxel_size_A
    expected = np.zeros_like(density.values)
    for weight, (x_A, y_A, z_A) in zip(model.weight, positions_A, strict=True):
        square = (x - x_A) ** 2 + (y - y_A) ** 2 + (z - z_A) ** 2
        expected += weight * np.exp(-square / (2 * radius_A**2)) / (2 * np.pi * radius_A**2) ** 1.5
    np.testing.assert_allclose(density.values, expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize("radius_A", [0.5, 3.0, 10.0])
def test_grid_is_no_larger_than_it_must_be(radius_A: float) -> None:
    """Voxels resolve the frequency; the cube holds the atoms, and its faces are empty."""
    model = beads(np.random.default_rng(0).uniform(-20, 20, (10, 3)), radius_A)
    density = density_of_atoms(model, 0.25, 1e-6, 1)
    assert 0.25 < 1 / (2 * density.voxel_size_A) < 0.5
    edge_A = len(density.values) * density.voxel_size_A
    assert 40 + 4 * radius_A < edge_A < 40 + 14 * radius_A + 100
    faces = np.concatenate([density.values[0].ravel(), density.values[:, 0].ravel()])
    assert np.abs(faces).max() < 1e-5 * density.values.max()
