"""Rotation matrices: the axes and signs of RELION's Euler angles."""

from __future__ import annotations

import numpy as np
import pytest

from cryolike.physics.rotations import euler_angles, rotation_matrices


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


def test_euler_angles_are_those_that_a_matrix_was_made_from() -> None:
    """Also at the poles, where only the sum or difference of rot and psi can be told."""
    rng = np.random.default_rng(0)
    euler = rng.uniform(-np.pi, np.pi, (50, 3))
    euler[:, 1] = np.abs(euler[:, 1])
    np.testing.assert_allclose(euler_angles(rotation_matrices(euler)), euler, atol=1e-12)
    poles = np.array([[0.4, 0.0, 0.7], [0.4, np.pi, 0.7]])
    again = euler_angles(rotation_matrices(poles))
    np.testing.assert_allclose(rotation_matrices(again), rotation_matrices(poles), atol=1e-12)
    np.testing.assert_array_equal(again[:, 0], 0)
