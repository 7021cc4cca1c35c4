"""RELION's Euler angles: rot, tilt, psi (ZYZ), which turn the reference into the observation."""

from __future__ import annotations

import numpy as np

__all__ = ["rotation_matrices"]


def rotation_matrices(euler_rad: np.ndarray) -> np.ndarray:
    """RELION's rotation matrices.

    Parameters
    ----------
    euler_rad
        Columns rot, tilt, psi, shape (n, 3).

    Returns
    -------
    ndarray
        A, shape (n, 3, 3); r' = A r takes the reference to the frame of the image.
    """
    rot, tilt, psi = euler_rad.T
    about_y = np.zeros((len(tilt), 3, 3))
    about_y[:, 0, 0] = about_y[:, 2, 2] = np.cos(tilt)
    about_y[:, 2, 0] = np.sin(tilt)
    about_y[:, 0, 2] = -about_y[:, 2, 0]
    about_y[:, 1, 1] = 1
    matrices: np.ndarray = _frame_rotation_about_z(psi) @ about_y @ _frame_rotation_about_z(rot)
    return matrices


def _frame_rotation_about_z(angle_rad: np.ndarray) -> np.ndarray:
    """Coordinates in a frame turned about z, shape (n, 3, 3)."""
    matrices = np.zeros((len(angle_rad), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle_rad)
    matrices[:, 0, 1] = np.sin(angle_rad)
    matrices[:, 1, 0] = -matrices[:, 0, 1]
    matrices[:, 2, 2] = 1
    return matrices
