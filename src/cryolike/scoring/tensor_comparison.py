"""Cross-correlations of images with templates in all poses, tile by tile, on any device."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryolike.physics.likelihood import log_likelihood_of_pose
from cryolike.scoring.comparison import (
    BestOfViews,
    ChosenPoses,
    ComparedGrid,
    Found,
    ImageMoments,
    ViewScores,
    displaced,
)
from cryolike.scoring.template_terms import TemplateTerms, angular_spectrum
from cryolike.scoring.turned_power import TurnedPower

__all__ = ["TensorComparison", "Tile"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """Some images against some templates.

    Parameters
    ----------
    rows, views
        Which.
    x
        Cross-correlations, (n_inplanes, n_images, n_displacements, n_views).
    log_likelihood
        Of each pose, of the same shape, but for what all poses of an image have in common, nats.
    """

    rows: slice
    views: slice
    x: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """Some images as terms.

    Parameters
    ----------
    of_images, of_ones
        Terms of displaced images, and of displaced ones, (n_images · n_displacements, n_terms).
    """

    of_images: Tensor
    of_ones: Tensor


class TensorComparison:
    """Compares images with the templates of one structure by operations on whole tensors.

    Parameters
    ----------
    terms
        Of the templates.
    grid
        What images and templates are compared on.
    memory_bytes
        What a comparison may take.
    """

    def __init__(self, terms: TemplateTerms, grid: ComparedGrid, memory_bytes: float) -> None:
        self.terms, self.grid = terms, grid
        self._memory_bytes = memory_bytes
        self._device = terms.terms.device
        self._ones = grid.ones.to(self._device, terms.terms.dtype)
        self._power = TurnedPower(terms.power, terms.basis.n_angles, terms.power_step)

    def tiles(
        self, moments: ImageMoments, delta_A: np.ndarray, views: np.ndarray | None = None
    ) -> Iterator[Tile]:
        """Compare images with views in all poses.

        Parameters
        ----------
        moments
            The images.
        delta_A
            Displacements δx and δy, Å, (n, 2).
        views
            Numbers of views, all where None.

        Yields
        ------
        Tile
            All views of some images before those of the next; `views` counts those chosen.
        """
        n_views = len(self.terms.terms) if views is None else len(views)
        n_rows, n_columns = self._tile_size(len(moments), len(delta_A), n_views)
        shift_back = displaced(-delta_A, self.grid, self._ones.dtype, self._device)
        first = 0
        while first < len(moments):
            rows = slice(first, min(first + n_rows, len(moments)))
            part = moments.take(rows)
            try:
                prepared = self._prepare(part, shift_back)
                start = 0
                while start < n_views:
                    columns = slice(start, min(start + n_columns, n_views))
                    chosen = columns if views is None else views[columns]
                    try:
                        tile = self._tile(part, prepared, rows, columns, chosen)
                    except (MemoryError, RuntimeError) as error:
                        n_columns = _halved(n_columns, error)
                        continue
                    yield tile
                    del tile
                    start = columns.stop
            except (MemoryError, RuntimeError) as error:
                n_rows = _halved(n_rows, error)
                continue
            first = rows.stop

    def best_of_views(
        self, moments: ImageMoments, delta_A: np.ndarray, log_prior: np.ndarray
    ) -> ViewScores:
        """Compare images with all views; see `comparison.Comparison`."""
        return self._best(moments, delta_A, log_prior, None, len(self.terms.terms))

    def arrays(self, moments: ImageMoments) -> ImageMoments:
        """Take the shells that are compared; see `comparison.Comparison`."""
        return moments.limited(len(self.grid.radius_shells))

    def each(self, work: Callable[[int], Found], n: int) -> list[Found]:
        """Do something for each number below n, in turn."""
        return [work(i) for i in range(n)]

    def largest_of_chosen(
        self, arrays: ImageMoments, chosen: ChosenPoses, delta_A: np.ndarray
    ) -> list[np.ndarray]:
        """Find the largest cross-correlations over angles; see `comparison.Comparison`."""
        found = []
        for i, views, displacements in _each(chosen):
            tiles = self.tiles(arrays.take(slice(i, i + 1)), delta_A[displacements], views)
            best = torch.cat([tile.x.amax(dim=(0, 1)).mT for tile in tiles])
            found.append(best.cpu().numpy())
        return found

    def best_of_chosen(
        self,
        arrays: ImageMoments,
        chosen: ChosenPoses,
        delta_A: np.ndarray,
        log_prior: np.ndarray,
    ) -> list[BestOfViews]:
        """Compare images with some of the views; see `comparison.Comparison`."""
        found = []
        for i, views, displacements in _each(chosen):
            image, prior = arrays.take(slice(i, i + 1)), log_prior[displacements]
            best = self._best(image, delta_A[displacements], prior, views, len(views))
            columns = {name: column[0].cpu().numpy() for name, column in vars(best).items()}
            found.append(BestOfViews(**columns))
        return found

    def terms_of_displaced(self, moments: ImageMoments, delta_A: np.ndarray) -> np.ndarray:
        """Terms of one image; see `comparison.Comparison`."""
        shift_back = displaced(-delta_A, self.grid, self._ones.dtype, self._device)
        of_images = (moments.images[0] * moments.ctf[0]) * shift_back
        terms: np.ndarray = self.terms.basis.compress(angular_spectrum(of_images)).cpu().numpy()
        return terms

    def _best(
        self,
        moments: ImageMoments,
        delta_A: np.ndarray,
        log_prior: np.ndarray,
        views: np.ndarray | None,
        n_views: int,
    ) -> ViewScores:
        prior = torch.tensor(log_prior, device=self._device)
        shape = len(moments), n_views
        found = [
            torch.empty(shape, dtype=dtype, device=self._device)
            for dtype in (self._ones.real.dtype, torch.int64, torch.int64, torch.float64)
        ]
        for tile in self.tiles(moments, delta_A, views):
            for whole, part in zip(found, _reduced(tile, prior), strict=True):
                whole[tile.rows, tile.views] = part
        x, inplane, displacement, integrated = found
        return ViewScores(
            cross_correlation=x,
            inplane=inplane,
            displacement=displacement,
            log_likelihood_integrated=integrated,
        )

    def _tile_size(self, n_images: int, n_displacements: int, n_views: int) -> tuple[int, int]:
        """Images and views of a tile that fit into memory."""
        n_shells, n_angles = self._ones.shape
        itemsize = self._ones.element_size()
        # Shifted images, their spectra and terms; then x, u, the likelihood and what makes them
        image_bytes = 4 * n_displacements * n_shells * n_angles * itemsize
        pose_bytes = 5 * itemsize * self.terms.basis.n_angles
        n_rows = int(np.clip(self._memory_bytes / 4 / image_bytes, 1, n_images))
        n_columns = self._memory_bytes / 2 / (n_rows * n_displacements * pose_bytes)
        return n_rows, int(np.clip(n_columns, 1, n_views))

    def _prepare(self, moments: ImageMoments, shift_back: Tensor) -> _Prepared:
        basis = self.terms.basis
        images = (moments.images * moments.ctf)[:, None] * shift_back
        ones = (self._ones * moments.ctf)[:, None] * shift_back
        return _Prepared(
            of_images=basis.compress(angular_spectrum(images.flatten(0, 1))),
            of_ones=basis.compress(angular_spectrum(ones.flatten(0, 1))),
        )

    def _tile(
        self,
        moments: ImageMoments,
        prepared: _Prepared,
        rows: slice,
        columns: slice,
        views: slice | np.ndarray,
    ) -> Tile:
        n_displacements = len(prepared.of_images) // len(moments)
        shape = (-1, len(moments), n_displacements, columns.stop - columns.start)
        power, _ = self._power(moments.ctf_series, views=views)
        i_xx = power.permute(2, 0, 1).repeat(self.terms.power_step, 1, 1)[:, :, None, :]
        x = self._inner_products(prepared.of_images, views).reshape(shape)
        x *= (i_xx * moments.i_yy.to(i_xx.dtype)[:, None, None]).rsqrt()
        u = self._inner_products(prepared.of_ones, views).reshape(shape)
        u *= (i_xx * self.grid.i_ss).rsqrt()
        v = moments.v.to(x.dtype)[:, None, None]
        likelihood = log_likelihood_of_pose(x, u, v, i_xx, self.grid.n_compared)
        return Tile(rows=rows, views=columns, x=x, log_likelihood=likelihood)

    def _inner_products(self, of_images: Tensor, views: slice | np.ndarray) -> Tensor:
        """⟨image, displaced, turned template⟩ at all angles, (n_inplanes, n_images, n_views)."""
        templates = self.terms.terms[views].conj().T
        basis = self.terms.basis
        series = of_images.new_zeros(len(basis.terms), len(of_images), templates.shape[1])
        for q, terms in enumerate(basis.terms):
            torch.matmul(of_images[:, terms], templates[terms], out=series[q])
        products: Tensor = torch.fft.irfft(series, n=basis.n_angles, dim=0)
        return products


def _each(chosen: ChosenPoses) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Go through images, their views and displacements."""
    return zip(chosen.images.tolist(), chosen.views, chosen.displacements, strict=True)


def _halved(n: int, error: Exception) -> int:
    """Halve the size of tiles after memory ran out.

    Raises
    ------
    MemoryError
        Where it cannot be halved.
    Exception
        What went wrong, if it was anything else.
    """
    # PyTorch says so in several ways, most of them without an exception of their own
    is_of_memory = re.search("memory|ALLOC_FAILED", str(error), flags=re.IGNORECASE)
    if not (isinstance(error, MemoryError) or is_of_memory):
        raise error
    if n <= 1:
        msg = "there is not enough memory for one image and one template in all poses at once."
        raise MemoryError(msg) from error
    _log.info("out of memory: going on with tiles of half the size")
    return n // 2


def _reduced(tile: Tile, log_prior: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best correlation, its angle and displacement, and the integral, (n_images, n_views)."""
    of_angles, inplane = tile.x.max(dim=0)
    best, displacement = of_angles.max(dim=1)
    integrated = tile.log_likelihood.logsumexp(dim=0) - math.log(len(tile.x))
    integrated = integrated.to(torch.float64) + log_prior[:, None]
    where = inplane.gather(1, displacement[:, None, :])[:, 0]
    return best, where, displacement, integrated.logsumexp(dim=1)
