"""Builders of small particle sets, and a direct computation of polar images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.special import roots_jacobi
from tests.builders import Built, SetBuilder

from cryolike.descriptor import ImageDescriptor

__all__ = ["Built", "DirectTransform", "SetBuilder"]


@dataclass(frozen=True)
class DirectTransform:
    """What the specification says of one image, term by term in float64."""

    n_pixels: int
    resolution_factor: float = 1.0

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Radii, weight of one point of each shell in an integral, angles."""
        radius_max = self.resolution_factor * self.n_pixels / 4
        n_shells = 1 + int(np.ceil(radius_max / 0.25))
        n_inplanes = 2 * self.n_pixels
        t, w = roots_jacobi(n_shells, 0, 1)
        weights = w * 2 * np.pi * (radius_max / 2) ** 2 / n_inplanes
        return (t + 1) * radius_max / 2, weights, 2 * np.pi * np.arange(n_inplanes) / n_inplanes

    def __call__(self, image: np.ndarray, factor: float = 1.0) -> dict[str, Any]:
        """Polar image and what was divided out; `factor` is the contrast's."""
        image = image * factor
        mean = image.mean()
        largest = np.abs(image - mean).max()
        normalised = (image - mean) / largest
        radii, weights, theta = self.grid()
        offsets = np.arange(self.n_pixels) - self.n_pixels // 2
        frequency = 2 * radii[:, None] / self.n_pixels
        along_x = np.exp(-2j * np.pi * (frequency * np.cos(theta))[..., None] * offsets)
        along_y = np.exp(-2j * np.pi * (frequency * np.sin(theta))[..., None] * offsets)
        sums = np.einsum("sty,yx,stx->st", along_y, normalised, along_x, optimize=True)
        polar = 4 * np.pi / self.n_pixels * sums
        norm = np.sqrt((weights[:, None] * np.abs(polar) ** 2).sum())
        return {"polar": polar / norm, "mean": mean, "largest": largest, "norm": norm}


@pytest.fixture(scope="session")
def new_builder() -> type[SetBuilder]:
    """Give the builder itself, for tests that need several folders."""
    return SetBuilder


@pytest.fixture
def direct() -> type[DirectTransform]:
    """Give the direct computation."""
    return DirectTransform


@pytest.fixture
def descriptor() -> ImageDescriptor:
    """12 pixels of 2 Å, single precision."""
    return ImageDescriptor.from_individual_values(12, 2.0)
