"""Work for fresh processes, of which time and memory are to be known.

Only what a function itself imports is in memory when it begins.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "convert_set",
    "in_fresh_process",
    "plan_set",
    "read_with_cryolike",
    "read_with_starfile",
    "score_simulated",
    "templates_of_atoms",
]


def in_fresh_process(function: Callable[[str], tuple[float, float]], star: Path) -> list[float]:
    """Call a function of this module in a process of its own.

    Its folder of work is that of the STAR file, or of another file that the function takes.
    """
    code = (
        f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        f"import children; print(json.dumps(children.{function.__name__}(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(star.absolute())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=star.parent)
    answer: list[float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that work takes, and by how many MB the peak of resident memory grows."""
    started, before = time.perf_counter(), _peak_MB()
    result = work()
    seconds, grown = time.perf_counter() - started, _peak_MB() - before
    del result
    return seconds, grown


def _peak_MB() -> float:
    """Largest resident memory so far; `ru_maxrss` would begin with that of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def convert_set(star: str) -> tuple[float, float]:
    """Convert a set that is read and planned already, into the folder 'out'."""
    from sets import plan_of

    from cryolike import convert

    plan = plan_of(Path(star))
    return measured(lambda: convert(plan, "out"))


def plan_set(star: str) -> tuple[float, float]:
    """Read a STAR file and plan."""
    from sets import plan_of

    return measured(lambda: plan_of(Path(star)))


def read_with_cryolike(star: str) -> tuple[float, float]:
    """Read a STAR file."""
    from cryolike import read_star

    return measured(lambda: read_star(star))


def read_with_starfile(star: str) -> tuple[float, float]:
    """Read a STAR file with the package starfile."""
    import starfile

    return measured(lambda: starfile.read(star))


def score_simulated(settings: str) -> tuple[float, float]:
    """Score images within a budget, when code is compiled and everything else is in memory."""
    from scoring_problem import ScoringProblem

    from cryolike.scoring.search import PoseSearch

    options = json.loads(Path(settings).read_text())
    budget_bytes = options.pop("budget_bytes")
    problem = ScoringProblem.simulated(**options)
    few = problem.part(2, 4)
    PoseSearch(few.templates, few.displacements).score(few.images, few.ctf)
    # Otherwise the peak would be that of making templates
    Path("/proc/self/clear_refs").write_text("5")

    def score() -> object:
        search = PoseSearch(problem.templates, problem.displacements, memory_bytes=budget_bytes)
        return search.score(problem.images, problem.ctf)

    return measured(score)


def templates_of_atoms(settings: str) -> tuple[float, float]:
    """Make templates of an atomic model, one bead per residue, all held in memory."""
    import numpy as np

    from cryolike.descriptor import ImageDescriptor
    from cryolike.physics.scattering import AtomicModel, bead_form_factors
    from cryolike.templates import make_templates

    options = json.loads(Path(settings).read_text())
    n_pixels, n_atoms, pixel_size_A = options["n_pixels"], options["n_atoms"], 1.5
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n_atoms, 3))
    radius_A = 0.3 * n_pixels * pixel_size_A * rng.uniform(size=n_atoms) ** (1 / 3)
    directions *= (radius_A / np.linalg.norm(directions, axis=1))[:, None]
    model = AtomicModel(
        name="beads",
        positions_A=directions,
        kind=rng.integers(17, size=n_atoms),
        weight=np.ones(n_atoms),
        form_factors=bead_form_factors(np.linspace(2.25, 3.4, 17), "gaussian"),
    )
    descriptor = ImageDescriptor.from_individual_values(n_pixels, pixel_size_A)
    return measured(lambda: make_templates(model, descriptor))
