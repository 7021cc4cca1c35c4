"""What one image is compared with views by, made in few calls and without Python's lock.

A search looks at an image in several short passes. Threads that took turns holding the lock would
wait for each other longer than they compare, so what a pass needs is made at once.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import no_type_check

import numpy as np

from cryolike.physics.compiled import _compiled
from cryolike.scoring.comparison import ImageMoments
from cryolike.scoring.image_terms import ImageTerms, aligned, fill_terms
from cryolike.scoring.turned_power import TurnedPower, fill_power
from cryolike.scoring.vectors import N_LANES

__all__ = ["ImageArrays", "Preparation"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArrays:
    """Images as compiled code takes them.

    Attributes
    ----------
    images
        float32, (n_images, n_shells, 2 · n_inplanes): parts of complex numbers in turn.
    ctf, ctf_series
        As in `ImageMoments`.
    inverse_norm, mean
        1/√I_yy, and v, (n_images,).
    power
        Mean of CTF² on the grid, (n_images,).
    """

    images: np.ndarray
    ctf: np.ndarray
    ctf_series: np.ndarray
    inverse_norm: np.ndarray
    mean: np.ndarray
    power: np.ndarray

    @classmethod
    def of_moments(cls, moments: ImageMoments) -> ImageArrays:
        """Take images on a processor, in single precision."""
        series = moments.ctf_series.numpy()
        return cls(
            images=moments.images.numpy().view(np.float32),
            ctf=moments.ctf.numpy(),
            ctf_series=series,
            inverse_norm=moments.i_yy.rsqrt().numpy().astype(np.float32),
            mean=moments.v.numpy(),
            power=series[:, :, 0].real.mean(axis=1) / moments.ctf.shape[2],
        )


@_compiled
@no_type_check
def _displace(image, ctf, factor, constants, delta_A, scratch, terms, powers, scales):
    """Make terms of an image; what its products with views are scaled by, where there are views.

    Parameters
    ----------
    image, ctf, factor, constants, delta_A, scratch, terms
        What `fill_terms` takes.
    powers
        What `fill_power` takes before its result.
    scales
        Get 1/√I_xx and ½ log I_xx, (n_views, n_angles); the latter may have no elements.
    """
    fill_terms(image, ctf, factor, constants, delta_A, scratch, terms)
    series, tables, views, tolerance, room = powers
    inverse_norm, half_log_power = scales
    fill_power(series, tables, views, tolerance, room, inverse_norm)
    period = tables[2].shape[2]
    for view in range(inverse_norm.shape[0]):
        line = inverse_norm[view]
        for j in range(period):
            line[j] = np.float32(1) / np.sqrt(line[j])
        for j in range(period, line.size):
            line[j] = line[j - period]
    for view in range(half_log_power.shape[0]):
        line = half_log_power[view]
        for j in range(period):
            line[j] = -np.log(inverse_norm[view, j])
        for j in range(period, line.size):
            line[j] = line[j - period]


class Preparation:
    """Makes what images are compared with views by; several threads may share one.

    Parameters
    ----------
    terms
        Of images.
    power
        Of the views.
    """

    def __init__(self, terms: ImageTerms, power: TurnedPower) -> None:
        self._terms, self._power = terms, power
        self._of_thread = threading.local()

    def __call__(
        self,
        arrays: ImageArrays,
        i: int,
        delta_A: np.ndarray,
        views: np.ndarray,
        tolerance: float,
        *,
        has_logarithms: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prepare one image.

        Parameters
        ----------
        arrays, i
            The images, and which of them.
        delta_A
            Displacements, (n, 2).
        views
            Numbers of the views, int64.
        tolerance
            Share of I_xx that may be left out.
        has_logarithms
            Whether to compute ½ log I_xx.

        Returns
        -------
        tuple of ndarray
            Terms, float32, (2, n_blocks, n_terms, `N_LANES`), real and imaginary; 1/√I_xx and
            ½ log I_xx, (n_views, n_angles). All are overwritten by the next call of the thread.
        """
        tables, n_views = self._power.tables, len(views)
        n_blocks, n_angles = -(-len(delta_A) // N_LANES), self._power.n_angles
        terms = self._room("terms", 2, n_blocks, self._terms.n_terms, N_LANES)
        inverse_norm = self._room("inverse_norm", n_views, n_angles)
        half_log_power = self._room("half_log_power", n_views if has_logarithms else 0, n_angles)
        room = self._room("factors", 2, *tables[0].shape[1:])
        _displace(
            arrays.images[i],
            arrays.ctf[i],
            arrays.inverse_norm[i],
            self._terms.constants,
            delta_A,
            self._terms.scratch(),
            terms.ravel(),
            (arrays.ctf_series[i], tables, views, float(tolerance * arrays.power[i]), room),
            (inverse_norm, half_log_power),
        )
        return terms, inverse_norm, half_log_power

    def _room(self, name: str, *shape: int) -> np.ndarray:
        """Memory of the thread: new memory could cost as much as the work."""
        held: dict[str, np.ndarray] = vars(self._of_thread)
        size = math.prod(shape)
        if name not in held or held[name].size < size:
            held[name] = aligned(size)
        return held[name][:size].reshape(shape)
