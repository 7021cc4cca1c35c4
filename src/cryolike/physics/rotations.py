"""RELION's Euler angles: rot, tilt, psi (ZYZ), which turn the reference into the observation."""

from __future__ import annotations

import numpy as np

__all__ = ["euler_angles", "rotation_matrices"]


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


def euler_angles(matrices: np.ndarray) -> np.ndarray:
    """RELION's Euler angles of rotation matrices, the inverse of `rotation_matrices`.

    Parameters
    ----------
    matrices
        Shape (n, 3, 3).

    Returns
    -------
    ndarray
        Columns rot, tilt, psi, radians, shape (n, 3); rot is 0 where tilt is 0 or π and only one of
        rot and psi can be told.
    """
    sine = np.hypot(matrices[:, 2, 0], matrices[:, 2, 1])
    tilt = np.arctan2(sine, matrices[:, 2, 2])
    is_pole = sine < 1e-9
    rot = np.where(is_pole, 0.0, np.arctan2(matrices[:, 2, 1], matrices[:, 2, 0]))
    about_pole = np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0] * np.sign(matrices[:, 2, 2]))
    psi = np.where(is_pole, about_pole, np.arctan2(matrices[:, 1, 2], -matrices[:, 0, 2]))
    return np.stack([rot, tilt, psi], axis=1)


def _frame_rotation_about_z(angle_rad: np.ndarray) -> np.ndarray:
    """Coordinates in a frame turned about z, shape (n, 3, 3)."""
    matrices = np.zeros((len(angle_rad), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle_rad)
    matrices[:, 0, 1] = np.sin(angle_rad)
    matrices[:, 1, 0] = -matrices[:, 0, 1]
    matrices[:, 2, 2] = 1
    return matrices
