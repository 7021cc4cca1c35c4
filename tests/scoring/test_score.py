"""One call for what takes two."""

from __future__ import annotations

import numpy as np
from tests.scoring.test_search import images, templates

from cryolike.scoring.displacements import Displacements
from cryolike.scoring.score import score
from cryolike.scoring.search import PoseSearch


def test_default_displacements_are_four_pixels_to_either_side() -> None:
    """And the rest is what a search does."""
    polar_images, ctf = (column[:2] for column in images(0.5))
    ours = score(polar_images, ctf, templates(), mode="fast")
    search = PoseSearch(templates(), Displacements.grid(4, 9, 9, 5.0), mode="fast")
    theirs = search.score(polar_images, ctf)
    for name in ("view", "displacement", "log_likelihood_integrated"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
