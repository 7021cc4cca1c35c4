"""Compiled comparison of images with few poses, against tensors in double precision."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from tests.scoring.simulated import ctf_of, templates_of, transformed

from cryolike import ImageDescriptor
from cryolike.errors import UsageError
from cryolike.physics.ctf import CtfParameters
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.comparison import ChosenPoses, ComparedGrid, ImageMoments
from cryolike.scoring.compiled_comparison import CompiledComparison
from cryolike.scoring.template_terms import TemplateTerms
from cryolike.scoring.tensor_comparison import TensorComparison
from cryolike.simulate import asymmetric_particle

DESCRIPTOR = ImageDescriptor.from_individual_values(32, 5.0, viewing_distance=0.4)
GRID = ComparedGrid.of_descriptor(DESCRIPTOR, "disc")
N_IMAGES = 4
DELTA_A = np.random.default_rng(2).uniform(-15, 15, (40, 2))
LOG_PRIOR = np.log(np.random.default_rng(3).dirichlet(np.ones(40)))


@cache
def images() -> ImageMoments:
    """Images of noise under astigmatic CTFs, the second of which has a mean."""
    rng = np.random.default_rng(1)
    mean_A = rng.uniform(12_000, 20_000, N_IMAGES)
    ctf = CtfParameters(
        defocus_u_A=mean_A + 2_000,
        defocus_v_A=mean_A - 2_000,
        defocus_angle_rad=rng.uniform(0, np.pi, N_IMAGES),
        phase_shift_rad=np.zeros(N_IMAGES),
        spherical_aberration_mm=np.full(N_IMAGES, 2.7),
        voltage_kV=np.full(N_IMAGES, 300.0),
        amplitude_contrast=np.full(N_IMAGES, 0.1),
        bfactor_A2=np.zeros(N_IMAGES),
        scale=np.ones(N_IMAGES),
    )
    pixels = rng.standard_normal((N_IMAGES, 32, 32))
    noise = transformed(pixels - pixels.mean(axis=(1, 2), keepdims=True), DESCRIPTOR)
    noise[1] += (0.2 / GRID.i_ss**0.5 * GRID.ones).to(noise)
    return ImageMoments.of_images(noise, ctf_of(ctf, DESCRIPTOR), GRID)


@cache
def comparisons() -> tuple[CompiledComparison, TensorComparison]:
    """Compare by compiled code in single precision, and by tensors in double."""
    views = ViewingDirections.of_spacing(0.4)
    templates = templates_of(asymmetric_particle(48.0), views, DESCRIPTOR).images
    polar = DESCRIPTOR.polar_grid
    terms = TemplateTerms.of_templates(templates, polar)
    doubled = TemplateTerms.of_templates(templates.to(torch.complex128), polar)
    return CompiledComparison(terms, GRID, 1e9, 2), TensorComparison(doubled, GRID, 1e9)


def in_double() -> ImageMoments:
    """Take the same images in double precision."""
    single = images()
    doubled = single.images.to(torch.complex128), single.ctf.to(torch.float64)
    return ImageMoments.of_images(*doubled, GRID)


def chosen() -> ChosenPoses:
    """Choose in no order, some twice, and so many displacements that vectors are not full."""
    rng = np.random.default_rng(4)
    n_views = len(comparisons()[0]._views.real)
    return ChosenPoses(
        images=np.array([2, 1, 0, 1, 3]),
        views=[rng.integers(n_views, size=n) for n in (7, 1, 13, 40, 6)],
        displacements=[rng.integers(len(DELTA_A), size=n) for n in (3, 17, 8, 1, 40)],
    )


def test_largest_correlations_are_those_of_tensors() -> None:
    """Of each image, view and displacement, in the order in which they are chosen."""
    compiled, tensors = comparisons()
    found = compiled.largest_of_chosen(compiled.arrays(images()), chosen(), DELTA_A)
    expected = tensors.largest_of_chosen(tensors.arrays(in_double()), chosen(), DELTA_A)
    assert [x.shape for x in found] == [(7, 3), (1, 17), (13, 8), (40, 1), (6, 40)]
    for x, y in zip(found, expected, strict=True):
        # The power of templates is known to a thousandth here
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6)


def test_best_poses_are_those_of_tensors() -> None:
    """Of images with and without a mean."""
    compiled, tensors = comparisons()
    arguments = chosen(), DELTA_A, LOG_PRIOR
    found = compiled.best_of_chosen(compiled.arrays(images()), *arguments)
    expected = tensors.best_of_chosen(tensors.arrays(in_double()), *arguments)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            ours.cross_correlation, theirs.cross_correlation, atol=1e-6, rtol=0
        )
        np.testing.assert_array_equal(ours.displacement, theirs.displacement)
        np.testing.assert_array_equal(ours.inplane, theirs.inplane)
        counted = theirs.log_likelihood_integrated > theirs.log_likelihood_integrated.max() - 8
        np.testing.assert_allclose(
            ours.log_likelihood_integrated[counted],
            theirs.log_likelihood_integrated[counted],
            atol=1e-3,
        )


def test_images_do_not_depend_on_each_other() -> None:
    """Results of a call are those of one call for each, and stay as they are after others."""
    compiled, _ = comparisons()
    arrays, together = compiled.arrays(images()), chosen()
    largest = compiled.largest_of_chosen(arrays, together, DELTA_A)
    best = compiled.best_of_chosen(arrays, together, DELTA_A, LOG_PRIOR)
    for i in range(len(together.images)):
        alone = ChosenPoses(
            images=together.images[i : i + 1],
            views=together.views[i : i + 1],
            displacements=together.displacements[i : i + 1],
        )
        (x,) = compiled.largest_of_chosen(arrays, alone, DELTA_A)
        np.testing.assert_array_equal(x, largest[i])
        (of_views,) = compiled.best_of_chosen(arrays, alone, DELTA_A, LOG_PRIOR)
        for name, column in vars(of_views).items():
            np.testing.assert_array_equal(column, getattr(best[i], name))


@pytest.mark.parametrize(
    ("name", "image", "view", "displacement"),
    [("images", 4, 0, 0), ("views", 0, -1, 0), ("displacements", 0, 0, 40)],
)
def test_numbers_that_do_not_exist_are_refused(
    name: str, image: int, view: int, displacement: int
) -> None:
    """Compiled code would read what lies beyond the arrays."""
    compiled, _ = comparisons()
    wrong = ChosenPoses(
        images=np.array([image]),
        views=[np.array([view])],
        displacements=[np.array([displacement])],
    )
    with pytest.raises(UsageError, match=f"{name} are numbered 0 to"):
        compiled.largest_of_chosen(compiled.arrays(images()), wrong, DELTA_A)
    with pytest.raises(UsageError, match=f"{name} are numbered 0 to"):
        compiled.best_of_chosen(compiled.arrays(images()), wrong, DELTA_A, LOG_PRIOR)


def test_nothing_to_compare_with_is_refused() -> None:
    """Of any image."""
    compiled, _ = comparisons()
    some = np.arange(2)
    nothing = ChosenPoses(images=some, views=[some, some[:0]], displacements=[some, some])
    with pytest.raises(UsageError, match="something to compare"):
        compiled.largest_of_chosen(compiled.arrays(images()), nothing, DELTA_A)
