"""Simulated particles as the search takes them, and how far its poses are from the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryolike import ImageDescriptor
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.physics.polar import PolarTransform
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.poses import Poses
from cryolike.simulate import BlobModel, project
from cryolike.templates import TemplateSet

__all__ = ["PoseErrors", "ctf_of", "pose_errors", "templates_of", "transformed"]


def transformed(images: np.ndarray, descriptor: ImageDescriptor) -> Tensor:
    """Polar images of unit norm, the mean of each in its box removed."""
    transform = PolarTransform.of_descriptor(descriptor)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    polar_images, _ = transform.with_unit_power(torch.from_numpy(centred).to(transform.real_dtype))
    return polar_images


def templates_of(
    model: BlobModel, views: ViewingDirections, descriptor: ImageDescriptor, name: str = "model"
) -> TemplateSet:
    """Templates from projections that are known in closed form."""
    pixels = descriptor.cartesian_grid
    euler_rad = np.stack([views.rot_rad, views.tilt_rad, np.zeros(len(views))], axis=1)
    flat = project(model, euler_rad, np.zeros((len(views), 2)), pixels.side_px, pixels.pixel_size_A)
    return TemplateSet(name, transformed(flat, descriptor), views, descriptor)


def ctf_of(parameters: CtfParameters, descriptor: ImageDescriptor) -> Tensor:
    """CTFs on the polar grid."""
    polar = descriptor.polar_grid
    dtype = torch.float32 if descriptor.precision == "single" else torch.float64
    box_A = descriptor.cartesian_grid.box_size_A
    return ctf_on_polar_grid(parameters, polar.radius_shells, polar.theta_shell, box_A, dtype=dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseErrors:
    """How far poses are from the true ones, (n_images,) each.

    Parameters
    ----------
    direction_deg
        Angle between the viewing directions.
    rotation_deg
        Angle of the rotation that takes one orientation to the other, in-plane angle and all.
    shift_A
        Distance between the displacements.
    """

    direction_deg: np.ndarray
    rotation_deg: np.ndarray
    shift_A: np.ndarray


def pose_errors(poses: Poses, euler_rad: np.ndarray, origins_A: np.ndarray) -> PoseErrors:
    """Compare poses with true angles rot, tilt, psi (n, 3) and RELION's origins (n, 2)."""
    ours = rotation_matrices(np.stack([poses.rot_rad, poses.tilt_rad, poses.psi_rad], axis=1))
    true = rotation_matrices(euler_rad)
    cosine = np.einsum("ni,ni->n", ours[:, 2], true[:, 2])
    trace = np.einsum("nij,nij->n", ours, true)
    shift_A = np.stack([poses.shift_x_A, poses.shift_y_A], axis=1) + origins_A
    return PoseErrors(
        direction_deg=np.rad2deg(np.arccos(np.clip(cosine, -1, 1))),
        rotation_deg=np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1))),
        shift_A=np.linalg.norm(shift_A, axis=1),
    )
