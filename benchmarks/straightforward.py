"""Scoring in the straightforward way, for comparison: everything complex, one step after another.

Polar images become angular Fourier series; those of images and templates are multiplied and summed
over shells for all angular frequencies, positive and negative; a full inverse transform gives
correlations at all in-plane angles, which are kept, divided by norms, and only then reduced. In
PyTorch, single precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cryolike.physics.likelihood import (
    log_likelihood_of_image,
    log_likelihood_of_pose,
    n_compared,
)
from cryolike.physics.polar import PolarTransform
from cryolike.scoring.displacements import Displacements
from cryolike.templates import TemplateSet

__all__ = ["Found", "Straightforward"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Best pose of each image, (n_images,) each.

    Attributes
    ----------
    cross_correlation
        The largest.
    view, displacement, inplane
        Where it is.
    log_likelihood_integrated
        Over all poses, nats; NaN where it was not asked for.
    """

    cross_correlation: np.ndarray
    view: np.ndarray
    displacement: np.ndarray
    inplane: np.ndarray
    log_likelihood_integrated: np.ndarray


class Straightforward:
    """Compares images with all templates at all displacements and in-plane angles.

    Parameters
    ----------
    templates, displacements
        As for `PoseSearch`.
    displaced
        Which of the two is displaced. Templates are displaced before they are rotated, so that the
        displacement turns with them; images are moved back, which displaces rotated templates, as
        the search does.
    n_views_at_once
        Templates whose correlations are in memory at a time.
    """

    def __init__(
        self,
        templates: TemplateSet,
        displacements: Displacements,
        displaced: Literal["templates", "images"],
        n_views_at_once: int = 8,
    ) -> None:
        self._templates, self._displacements = templates, displacements
        self._displaced, self._n_views_at_once = displaced, n_views_at_once
        pixels, polar = templates.descriptor.cartesian_grid, templates.descriptor.polar_grid
        self._weight = torch.tensor(polar.point_weight_shells, dtype=torch.float32)[:, None]
        self._n_compared = n_compared(templates.descriptor)
        theta, radius = torch.tensor(polar.theta_shell), torch.tensor(polar.radius_shells)
        delta_A = torch.tensor(np.stack([displacements.x_A, displacements.y_A], axis=1))
        along_A = delta_A @ torch.stack([theta.cos(), theta.sin()])
        cycles = 2 * radius[:, None] / pixels.box_size_A * along_A[:, None]
        self._phases = torch.exp(-2j * math.pi * cycles).to(torch.complex64)
        box = torch.ones(1, pixels.side_px, pixels.side_px, dtype=torch.float64)
        self._box = PolarTransform(pixels, polar, "double")(box).to(torch.complex64)
        self._i_ss = float(self._sum(self._box, self._box))

    def __call__(self, images: Tensor, ctf: Tensor, *, has_likelihoods: bool = False) -> Found:
        """Score images, with or without their integrated likelihoods."""
        i_yy = self._sum(images, images)
        v = (self._sum(self._box, images) / (i_yy * self._i_ss).sqrt())[:, None, None]
        of_images, of_box = (self.image_series(a * ctf) for a in (images, self._box))
        of_ctf = _series(ctf.square() * self._weight)
        best, where, log_sums = [], [], []
        log_prior = torch.tensor(self._displacements.log_prior)[:, None]
        for views in self._batches():
            power = self._templates.images[views].abs().square()
            i_xx = _correlated(of_ctf, power)[:, :, None]
            x = self.products(of_images, views) * (i_xx * i_yy[:, None, None]).rsqrt()
            largest, place = x.permute(1, 3, 2, 0).flatten(1).max(dim=1)
            best.append(largest)
            where.append(place + views.start * len(log_prior) * len(x))
            if has_likelihoods:
                u = self.products(of_box, views) * (i_xx * self._i_ss).rsqrt()
                log = log_likelihood_of_pose(x, u, v, i_xx, self._n_compared).to(torch.float64)
                log_weights = torch.tensor(np.log(self._templates.views.weights[views]))
                log_sums.append((log + log_prior + log_weights).logsumexp(dim=(0, 2, 3)))
        largest, batch = torch.stack(best).max(dim=0)
        place = torch.stack(where).gather(0, batch[None])[0].numpy()
        n_angles = self._box.shape[-1]
        integrated = np.full(len(images), np.nan)
        if has_likelihoods:
            common = log_likelihood_of_image(i_yy.numpy(), self._i_ss, self._n_compared)
            integrated = torch.stack(log_sums).logsumexp(dim=0).numpy() + common
            integrated -= math.log(n_angles)
        return Found(
            cross_correlation=largest.numpy(),
            view=place // (len(log_prior) * n_angles),
            displacement=place // n_angles % len(log_prior),
            inplane=place % n_angles,
            log_likelihood_integrated=integrated,
        )

    def image_series(self, images: Tensor) -> Tensor:
        """Angular series of images, displaced if it is they who are; (angles, n, shells)."""
        images = images * self._weight
        if self._displaced == "images":
            images = (images[:, None] * self._phases.conj()).flatten(0, 1)
        return _series(images)

    def products(self, of_images: Tensor, views: slice) -> Tensor:
        """⟨image, displaced and rotated template⟩: angles, images, displacements, views."""
        templates = self._templates.images[views]
        shape = -1, len(self._displacements), len(templates)
        if self._displaced == "templates":
            templates = (templates * self._phases[:, None]).flatten(0, 1)
        products = _correlated(of_images, templates)
        return products.reshape(len(products), *shape)

    def _sum(self, a: Tensor, b: Tensor) -> Tensor:
        return (self._weight * (a.conj() * b).real).sum(dim=(1, 2))

    def _batches(self) -> Iterator[slice]:
        n_views, n_at_once = len(self._templates), self._n_views_at_once
        for start in range(0, n_views, n_at_once):
            yield slice(start, min(start + n_at_once, n_views))


def _series(polar_images: Tensor) -> Tensor:
    """Angular Fourier series, conjugate, (angles, n, shells)."""
    return torch.fft.fft(polar_images).conj().permute(2, 0, 1).resolve_conj().contiguous()


def _correlated(of_images: Tensor, templates: Tensor) -> Tensor:
    """Σ over points of Re(conj(image) · template rotated by each angle); (angles, n, n_views)."""
    of_templates = torch.fft.fft(templates).permute(2, 1, 0).contiguous()
    series = torch.bmm(of_images, of_templates)
    return torch.fft.fft(series, dim=0).real / len(series)
