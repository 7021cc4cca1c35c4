"""Images of a simulated particle, and the templates and displacements to compare them with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from sets import PIXEL_SIZE_A
from torch import Tensor

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.physics.polar import PolarTransform
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.simulate import asymmetric_particle, density_map, simulate_particles
from cryolike.templates import TemplateSet, make_templates

__all__ = ["ScoringProblem"]

_SNR = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringProblem:
    """What is compared.

    Attributes
    ----------
    templates, displacements
        To compare with.
    images, ctf
        (n_images, n_shells, n_inplanes).
    """

    templates: TemplateSet
    displacements: Displacements
    images: Tensor
    ctf: Tensor

    @classmethod
    def simulated(
        cls, n_pixels: int, n_images: int, *, spacing_rad: float | None, n_displacements: int
    ) -> ScoringProblem:
        """Simulate astigmatic images at random poses, with displacements of at most 4 pixels.

        The grids are the default ones; so are the viewing directions where no spacing is given.
        """
        descriptor = ImageDescriptor.from_individual_values(
            n_pixels, PIXEL_SIZE_A, viewing_distance=spacing_rad
        )
        rng = np.random.default_rng(0)
        particle = asymmetric_particle(0.3 * n_pixels * PIXEL_SIZE_A)
        euler_rad = rng.uniform(-np.pi, np.pi, (n_images, 3))
        euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, n_images))
        origins_A = rng.uniform(-4, 4, (n_images, 2)) * PIXEL_SIZE_A
        lenses = _lenses(rng, n_images)
        pixels = simulate_particles(
            particle, lenses, euler_rad, origins_A, n_pixels, PIXEL_SIZE_A, snr=_SNR
        )
        pixels -= pixels.mean(axis=(1, 2), keepdims=True)
        images, _ = PolarTransform.of_descriptor(descriptor).with_unit_power(
            torch.from_numpy(pixels)
        )
        polar, box_A = descriptor.polar_grid, descriptor.cartesian_grid.box_size_A
        grids = polar.radius_shells, polar.theta_shell, box_A
        return cls(
            templates=make_templates(density_map(particle, n_pixels, PIXEL_SIZE_A), descriptor),
            displacements=Displacements.grid(4, n_displacements, n_displacements, PIXEL_SIZE_A),
            images=images,
            ctf=ctf_on_polar_grid(lenses, *grids, dtype=torch.float32),
        )

    @property
    def n_pairs(self) -> int:
        """Images times views times displacements: each is compared at all in-plane angles."""
        return len(self.images) * len(self.templates) * len(self.displacements)

    def part(self, n_images: int, n_views: int) -> ScoringProblem:
        """Take some of the images, and views spread over all."""
        views = self.templates.views
        chosen = np.unique(np.linspace(0, len(views) - 1, n_views).astype(int))
        weights = views.weights[chosen]
        return replace(
            self,
            templates=replace(
                self.templates,
                images=self.templates.images[chosen],
                views=ViewingDirections(
                    views.rot_rad[chosen], views.tilt_rad[chosen], weights / weights.sum()
                ),
            ),
            images=self.images[:n_images],
            ctf=self.ctf[:n_images],
        )


def _lenses(rng: np.random.Generator, n: int) -> CtfParameters:
    mean_A, deviation_A = rng.uniform(8_000, 22_000, n), rng.uniform(-1_500, 1_500, n)
    return CtfParameters(
        defocus_u_A=mean_A + deviation_A,
        defocus_v_A=mean_A - deviation_A,
        defocus_angle_rad=rng.uniform(0, np.pi, n),
        phase_shift_rad=np.zeros(n),
        spherical_aberration_mm=np.full(n, 2.7),
        voltage_kV=np.full(n, 300.0),
        amplitude_contrast=np.full(n, 0.1),
        bfactor_A2=np.zeros(n),
        scale=np.ones(n),
    )
