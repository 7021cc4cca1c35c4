"""What a plan of scoring refuses by numbers that hostile input cannot reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.builders import SetBuilder
from tests.hostile.score_cases import plain_map, star_file

from cryolike.conversion import plan_conversion
from cryolike.errors import UsageError
from cryolike.io.read import read_particles
from cryolike.physics.ctf import ctf_on_polar_grid
from cryolike.scoring import plan as plan_module
from cryolike.scoring import sources as sources_module
from cryolike.scoring.plan import ScoreOptions, plan_scoring
from cryolike.scoring.sources import SetSource, zero_ctf_problems


def test_more_templates_than_memory(build: SetBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates of a structure that the machine cannot hold are refused, with both numbers."""
    table, options = read_particles(star_file(build)), ScoreOptions(viewing_distance=0.5)
    plan = plan_scoring(table, [plain_map(build)], options)
    monkeypatch.setattr(plan_module, "_LARGEST_SHARE_OF_MEMORY", 1e-9)
    with pytest.raises(UsageError, match=rf"{len(plan.views)} templates take .* this machine has"):
        plan_scoring(table, [plain_map(build, "again.mrc")], options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_bytes": 1.0}, "at least 50 MB"),
        ({"shift_max_px": 4.0, "shift_step_px": 0.005}, "2,563,201 shifts"),
        ({"shift_sd_A": -1.0}, "positive number of Å"),
        ({"published": True, "local_rad": 0.1}, "leave one out"),
        ({"viewing_distance": float("nan")}, "viewing distance nan"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    """Each is refused as it is made."""
    with pytest.raises(UsageError, match=words):
        ScoreOptions(**options)


def test_ctf_is_looked_at_in_full_only_where_it_may_be_zero(
    build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few points tell of all images but those whose CTF is zero at these."""
    scale = np.ones(15)
    scale[[2, 9]] = 0
    built = build.relion(columns={"rlnCtfScalefactor": scale.tolist()})
    source = SetSource(plan=plan_conversion(read_particles(built.path)))
    polar, n_points = source.descriptor.polar_grid, []

    def counting(parameters: Any, shells: Any, angles: Any, *more: Any, **kw: Any) -> torch.Tensor:
        n_points.append((len(parameters), len(shells) * len(angles)))
        return ctf_on_polar_grid(parameters, shells, angles, *more, **kw)

    monkeypatch.setattr(sources_module, "ctf_on_polar_grid", counting)
    (problem,) = zero_ctf_problems(source)
    assert [place.partition(":")[0] for place in problem.places] == ["row 2", "row 9"]
    n_all = polar.n_shells * polar.n_inplanes
    assert [n for n, points in n_points if points == n_all] == [2]
    assert all(points < n_all / 5 for n, points in n_points if n == 15)
