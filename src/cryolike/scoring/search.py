"""Comparison of images with all templates in all poses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryolike.errors import CryoLikeWarning, UsageError
from cryolike.physics import likelihood
from cryolike.physics.likelihood import CountedValues
from cryolike.physics.views import unit_vectors
from cryolike.scoring.comparison import (
    ChosenPoses,
    ComparedGrid,
    Comparison,
    ImageMoments,
    ViewScores,
)
from cryolike.scoring.compiled_comparison import CompiledComparison
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.fast import BestPoses, FastSearch, best_pose, best_poses
from cryolike.scoring.one_pose import sums_at_poses
from cryolike.scoring.poses import Poses, PoseScores
from cryolike.scoring.refine import Refinement
from cryolike.scoring.template_terms import TemplateTerms
from cryolike.scoring.tensor_comparison import TensorComparison, Tile
from cryolike.templates import TemplateSet

__all__ = ["PoseSearch", "SearchMode"]

SearchMode = Literal["fast", "exact"]
"""Whether all poses are compared in full."""

_WIDEST_PRIOR_NATS = 25.0
"""Range of the logarithm of a prior over displacements that compiled code allows for."""

_POSES_AT_ONCE = 8
"""Poses whose templates are displaced together: as many as the cache of a processor holds."""

_TOO_GOOD = 0.999
"""Correlation above which single precision does not tell what noise there is."""


class PoseSearch:
    """Compares images with the templates of one structure; built once for many images.

    Parameters
    ----------
    templates
        Of the structure, on the grid of the images.
    displacements
        To try.
    mode
        'exact' compares with all templates in all poses. 'fast' looks everywhere at low resolution
        first and then in full where an image may be; images for which that would leave out more
        than 0.03 nats, by estimate, are compared with everything. It looks for positive
        correlations only: integrals of images of the opposite contrast lack what negative ones add.
    refine
        Whether to give poses between those of the grids, where the cross-correlation near the best
        one peaks. Correlations and likelihoods are those of the grids all the same.
    n_compared
        Which values count as compared: 'disc', those of the disc of frequencies that the polar grid
        covers, or 'box', all pixels, as published.
    device
        Where the comparison runs.
    memory_bytes
        What the comparison may use besides templates and images.
    n_threads
        Threads of a processor to use; all cores that the process may use where None.

    Raises
    ------
    UsageError
        Where displacements go beyond the box, there is no such mode or way of counting values, or
        `n_threads` is below 1.
    """

    def __init__(
        self,
        templates: TemplateSet,
        displacements: Displacements,
        *,
        mode: SearchMode = "exact",
        refine: bool = False,
        n_compared: CountedValues = "disc",
        device: str | torch.device = "cpu",
        memory_bytes: float = 4e9,
        n_threads: int | None = None,
    ) -> None:
        _check_choices(mode, n_compared, n_threads)
        self.displacements = displacements
        self.descriptor = templates.descriptor
        self.device = torch.device(device)
        _check_displacements(displacements, self.descriptor.cartesian_grid.box_size_A)
        self._grid = ComparedGrid.of_descriptor(self.descriptor, n_compared)
        views = templates.images.resolve_conj().to(self.device).contiguous()
        self.templates = replace(templates, images=views)
        self._terms = TemplateTerms.of_templates(views, self.descriptor.polar_grid)
        self._all_poses = TensorComparison(self._terms, self._grid, memory_bytes)

        # Compiled code compares likelihoods before it counts priors, and in single precision
        is_wide = bool(np.ptp(displacements.log_prior) <= _WIDEST_PRIOR_NATS)
        if not is_wide:
            warnings.warn(
                "The prior over shifts is much narrower than the shifts that are tried: comparing "
                "with all of them by slower code. Try smaller shifts.",
                CryoLikeWarning,
                stacklevel=2,
            )

        def compare_with(terms: TemplateTerms, grid: ComparedGrid) -> Comparison:
            is_processor = terms.terms.device.type == "cpu" and terms.power_step == 2 and is_wide
            if is_processor and terms.terms.dtype == torch.complex64:
                return CompiledComparison(terms, grid, memory_bytes, n_threads)
            return TensorComparison(terms, grid, memory_bytes)

        self._comparison = compare_with(self._terms, self._grid)
        self._refine: Refinement | None = None
        if refine:
            self._refine = Refinement(
                templates.views,
                templates.views.spacing_rad,
                displacements.step_A,
                self._terms,
                self._comparison,
            )
        self._fast: FastSearch | None = None
        if mode == "fast" and is_wide:
            self._fast = FastSearch(
                self.templates,
                displacements,
                self._grid,
                self._comparison,
                compare_with,
            )

    def score(
        self,
        images: Complex[Tensor, "n_images n_shells n_inplanes"],
        ctf: Float[Tensor, "n_images n_shells n_inplanes"],
        *,
        near: Poses | None = None,
        within_rad: float | None = None,
    ) -> PoseScores:
        """Find the best pose of each image, and its likelihoods.

        Parameters
        ----------
        images
            Polar images.
        ctf
            Their contrast transfer functions.
        near
            Search near these poses only: at all in-plane angles, with the displacements of the
            search around those given. Images whose pose is not finite are searched everywhere.
            Integrals are over what was searched.
        within_rad
            Largest angle between viewing directions and those of `near`.

        Returns
        -------
        PoseScores
            In the order of the images.

        Raises
        ------
        UsageError
            Where the images are on another grid than the templates, an image or a CTF is zero
            everywhere or not finite, or only one of `near` and `within_rad` is given.
        """
        moments = self._moments(images, ctf)
        if (near is None) != (within_rad is None):
            raise UsageError("near and within_rad belong together: give both or none.")
        if near is None or within_rad is None:
            best = self._best_anywhere(moments)
        else:
            best = self._best_near(moments, near, within_rad)
        x, optimal = self._at_poses(moments, best)
        common = likelihood.log_likelihood_of_image(
            moments.i_yy.cpu().numpy(), self._grid.i_ss, self._grid.n_compared
        )
        dtype = self.templates.images.dtype
        _warn_of_odd_images(x.cpu().numpy(), optimal.cpu().numpy(), best.integrated, dtype)
        poses = self._poses(best)
        if self._refine is not None:
            poses = self._refine(moments, best.view, poses)
        return PoseScores(
            poses=poses,
            cross_correlation=x.cpu().numpy(),
            view=best.view,
            inplane=best.inplane,
            displacement=best.displacement,
            log_likelihood_optimal=optimal.cpu().numpy() + common,
            log_likelihood_integrated=best.integrated + common,
            left_out=best.left_out,
        )

    def score_views(
        self,
        images: Complex[Tensor, "n_images n_shells n_inplanes"],
        ctf: Float[Tensor, "n_images n_shells n_inplanes"],
    ) -> ViewScores:
        """Find the best pose of each image under each template; arguments as in `score`."""
        return self._score_views(self._moments(images, ctf))

    def score_rotations(
        self,
        images: Complex[Tensor, "n_images n_shells n_inplanes"],
        ctf: Float[Tensor, "n_images n_shells n_inplanes"],
    ) -> Float[Tensor, "n_images n_inplanes"]:
        """Find the largest cross-correlation at each in-plane angle; arguments as in `score`."""
        moments = self._moments(images, ctf)
        shape = len(moments), self.descriptor.polar_grid.n_inplanes
        best = torch.full(shape, -torch.inf, dtype=ctf.dtype, device=self.device)
        for tile in self._all_poses.tiles(moments, self._delta_A):
            best[tile.rows] = torch.maximum(best[tile.rows], tile.x.amax(dim=(2, 3)).T)
        return best

    def cross_correlations(
        self,
        images: Complex[Tensor, "n_images n_shells n_inplanes"],
        ctf: Float[Tensor, "n_images n_shells n_inplanes"],
    ) -> Iterator[Tile]:
        """Yield all cross-correlations, tile by tile; arguments as in `score`."""
        yield from self._all_poses.tiles(self._moments(images, ctf), self._delta_A)

    def _best_anywhere(self, moments: ImageMoments) -> BestPoses:
        if self._fast is not None:
            return self._fast.best_poses(moments)
        return best_poses(self._score_views(moments), np.log(self.templates.views.weights))

    def _best_near(self, moments: ImageMoments, near: Poses, within_rad: float) -> BestPoses:
        """Search near poses, and everywhere where there is none."""
        directions = self.templates.views.unit_vectors
        self._check_near(near, within_rad, len(moments))
        given = unit_vectors(near.rot_rad, near.tilt_rad)
        shifts = near.shift_x_A, near.shift_y_A
        is_known = np.isfinite(np.column_stack([given, *shifts])).all(axis=1)
        known = np.flatnonzero(is_known)
        # The nearest view at least, if the angle is smaller than their spacing
        cosine = given[known] @ directions.T
        least = np.minimum(math.cos(within_rad), cosine.max(axis=1, initial=-1))
        views = [np.flatnonzero(row >= limit) for row, limit in zip(cosine, least, strict=True)]
        centre_A = np.stack([near.shift_x_A, near.shift_y_A], axis=1)
        log_weights, log_prior = np.log(self.templates.views.weights), self.displacements.log_prior

        arrays = self._comparison.arrays(moments.take(known))
        every = np.arange(len(self._delta_A))

        def compare(i: int) -> BestPoses:
            centre = centre_A[known[i]]
            chosen = ChosenPoses(images=np.array([i]), views=[views[i]], displacements=[every])
            delta_A = self._delta_A + centre
            (found,) = self._comparison.best_of_chosen(arrays, chosen, delta_A, log_prior)
            return best_pose(found, log_weights[views[i]], views[i], centre)

        parts = self._comparison.each(compare, len(known))
        rest = np.flatnonzero(~is_known)
        if len(rest):
            parts.append(self._best_anywhere(moments.take(rest)))
        return BestPoses.joined(parts, np.argsort(np.concatenate([known, rest])))

    def _check_near(self, near: Poses, within_rad: float, n_images: int) -> None:
        if any(len(column) != n_images for column in vars(near).values()):
            msg = f"near: give one pose for each of the {n_images} images."
            raise UsageError(msg)
        if not 0 < within_rad <= math.pi:
            msg = f"within_rad is {within_rad}; it must be above 0 and at most π radians."
            raise UsageError(msg)
        for shift_A, delta_A in zip((near.shift_x_A, near.shift_y_A), self._delta_A.T, strict=True):
            largest_A = np.nan_to_num(np.abs(shift_A)).max(initial=0) + np.abs(delta_A).max()
            _check_reach(largest_A, self._grid.box_size_A)

    @property
    def _delta_A(self) -> np.ndarray:
        return np.stack([self.displacements.x_A, self.displacements.y_A], axis=1)

    def _score_views(self, moments: ImageMoments) -> ViewScores:
        log_prior = self.displacements.log_prior
        return self._comparison.best_of_views(moments, self._delta_A, log_prior)

    def _moments(self, images: Tensor, ctf: Tensor) -> ImageMoments:
        self._check_grid(images, ctf)
        images = images.detach().resolve_conj().to(self.device, self.templates.images.dtype)
        ctf = ctf.detach().to(self.device, images.real.dtype).contiguous()
        images = images.contiguous()
        moments = ImageMoments.of_images(images, ctf, self._grid)
        strength = ctf.square().amax(dim=(1, 2))
        is_bad = ~(
            (moments.i_yy > 0) & moments.i_yy.isfinite() & (strength > 0) & strength.isfinite()
        )
        if is_bad.any():
            msg = (
                f"images {is_bad.nonzero()[:10, 0].tolist()} (counted from 0; {int(is_bad.sum())} "
                "in all) are blank or not finite, or their CTF is zero everywhere or not finite: "
                "nothing can be compared. Leave them out."
            )
            raise UsageError(msg)
        return moments

    def _check_grid(self, images: Tensor, ctf: Tensor) -> None:
        expected = tuple(self.templates.images.shape[1:])
        if not len(images):
            raise UsageError("there are no images to compare.")
        for name, tensor in (("images", images), ("CTFs", ctf)):
            if tuple(tensor.shape) != (len(images), *expected):
                msg = (
                    f"{name} have shape {tuple(tensor.shape)}, but templates are on {expected[0]} "
                    f"shells of {expected[1]} angles. Make both with the same descriptor."
                )
                raise UsageError(msg)

    def _at_poses(self, moments: ImageMoments, best: BestPoses) -> tuple[Tensor, Tensor]:
        """Cross-correlation and log-likelihood of one pose of each image, float64."""
        shift_A = self._shift_A(best)

        def few(i: int) -> np.ndarray:
            rows = slice(i * _POSES_AT_ONCE, (i + 1) * _POSES_AT_ONCE)
            return sums_at_poses(
                *(moments.take(rows), self.templates.images, self._grid),
                *(best.view[rows], best.inplane[rows], shift_A[rows]),
            )

        parts = self._comparison.each(few, -(-len(moments) // _POSES_AT_ONCE))
        i_xx, i_xy, i_xs = torch.from_numpy(np.concatenate(parts, axis=1)).to(self.device)
        x, u = i_xy / (i_xx * moments.i_yy).sqrt(), i_xs / (i_xx * self._grid.i_ss).sqrt()
        n_compared = self._grid.n_compared
        return x, likelihood.log_likelihood_of_pose(x, u, moments.v, i_xx, n_compared)

    def _shift_A(self, best: BestPoses) -> np.ndarray:
        """Displacements of poses, Å, (n_images, 2)."""
        shift_A: np.ndarray = best.centre_A + self._delta_A[best.displacement]
        return shift_A

    def _poses(self, best: BestPoses) -> Poses:
        views, shift_A = self.templates.views, self._shift_A(best)
        # Turning a template by +γ is RELION's psi of −γ
        psi_rad = -self.descriptor.polar_grid.theta_shell[best.inplane]
        return Poses(
            rot_rad=views.rot_rad[best.view],
            tilt_rad=views.tilt_rad[best.view],
            psi_rad=(psi_rad + np.pi) % (2 * np.pi) - np.pi,
            shift_x_A=shift_A[:, 0],
            shift_y_A=shift_A[:, 1],
        )


def _check_displacements(displacements: Displacements, box_size_A: float) -> None:
    largest_A = max(np.abs(displacements.x_A).max(), np.abs(displacements.y_A).max())
    _check_reach(largest_A, box_size_A)


def _check_reach(largest_A: float, box_size_A: float) -> None:
    if largest_A > box_size_A / 2:
        msg = (
            f"displacements go to {largest_A:g} Å, but a box of {box_size_A:g} Å has only half of "
            "that to either side. Try smaller displacements."
        )
        raise UsageError(msg)


def _check_choices(mode: str, counted: str, n_threads: int | None) -> None:
    faults = []
    for name, value, known in (
        ("mode", mode, get_args(SearchMode)),
        ("n_compared", counted, get_args(CountedValues)),
    ):
        if value not in known:
            faults.append(f"{name} is {value!r}; it must be {' or '.join(known)}.")
    if n_threads is not None and n_threads < 1:
        faults.append(f"n_threads is {n_threads}; it must be at least 1.")
    if faults:
        raise UsageError("\n".join(faults))


def _warn_of_odd_images(
    x: np.ndarray, optimal: np.ndarray, integrated: np.ndarray, dtype: torch.dtype
) -> None:
    """Warn of images that are dark where templates are bright, and of images without noise."""
    n_dark = int((integrated > optimal + 1).sum())
    if n_dark:
        warnings.warn(
            f"{n_dark} of {len(x)} images are explained better with the opposite contrast: protein "
            "may be dark in them. Their best poses mean nothing.",
            CryoLikeWarning,
            stacklevel=3,
        )
    n_clean = int((x > _TOO_GOOD).sum())
    if n_clean and dtype == torch.complex64:
        warnings.warn(
            f"{n_clean} of {len(x)} images hold next to no noise (correlation above "
            f"{_TOO_GOOD:g}): their integrated likelihoods are not accurate in single precision.",
            CryoLikeWarning,
            stacklevel=3,
        )
