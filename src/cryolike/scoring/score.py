"""Score images in one call."""

from __future__ import annotations

from typing import Any

from jaxtyping import Complex, Float
from torch import Tensor

from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import PoseScores
from cryolike.scoring.search import PoseSearch
from cryolike.templates import TemplateSet

__all__ = ["score"]


def score(
    images: Complex[Tensor, "n_images n_shells n_inplanes"],
    ctf: Float[Tensor, "n_images n_shells n_inplanes"],
    templates: TemplateSet,
    displacements: Displacements | None = None,
    **search: Any,
) -> PoseScores:
    """Find the best pose of each image under a structure, and its likelihoods.

    For many batches of images, build a `PoseSearch` once.

    Parameters
    ----------
    images
        Polar images.
    ctf
        Their contrast transfer functions.
    templates
        Of the structure, made with the descriptor of the images.
    displacements
        To try; up to 4 pixels along x and y in steps of one pixel where None.
    **search
        Further arguments of `PoseSearch`: mode, refine, n_compared, device, memory_bytes,
        n_threads.

    Returns
    -------
    PoseScores
        In the order of the images.
    """
    if displacements is None:
        pixel_size_A = templates.descriptor.cartesian_grid.pixel_size_A
        displacements = Displacements.grid(4, 9, 9, pixel_size_A)
    return PoseSearch(templates, displacements, **search).score(images, ctf)
