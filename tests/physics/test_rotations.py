"""Rotation matrices: the axes and signs of RELION's Euler angles."""

from __future__ import annotations

import numpy as np
import pytest

from cryolike.physics.rotations import rotation_matrices


def test_rotations_follow_zyz() -> None:
    """A is a rotation; its last row is the viewing direction; rot and psi turn about z."""
    rot, tilt, psi = 0.3, 1.1, -2.0
    matrix = rotation_matrices(np.array([[rot, tilt, psi]]))[0]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(matrix) == pytest.approx(1)
    view = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    np.testing.assert_allclose(matrix[2], view, atol=1e-14)
    in_plane = rotation_matrices(np.array([[0.2, 0.0, 0.5]]))[0]
    np.testing.assert_allclose(in_plane @ [np.cos(0.7), np.sin(0.7), 0], [1, 0, 0], atol=1e-14)
