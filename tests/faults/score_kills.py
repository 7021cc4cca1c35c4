"""Kill scoring runs at random moments; each must then resume to what an undisturbed run writes.

A program, which tests start: it only forks others that do the work and never computes anything
itself, since threads do not survive a fork.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.score_sets import ScoreSet, files_below, write_score_set

from cryolike.io.read import read_particles
from cryolike.scoring import plan as plan_module
from cryolike.scoring.plan import ScoreOptions, plan_scoring
from cryolike.scoring.run import score_particles

N_KILLS = 12
N_TILES = 8


def fork(work: Callable[[], object]) -> int:
    """Do some work in a new process; its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> bool:
    """Wait for a process; whether it was killed."""
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a run failed: see above")
    return os.WIFSIGNALED(status)


def start(data: ScoreSet, out: Path, *, resume: bool) -> int:
    """Score eight images at a time, with pictures and the published files."""

    def work() -> None:
        plan_module._N_BLOCK_MOST = 8
        options = ScoreOptions(viewing_distance=0.5, shift_max_px=1.0, published=True)
        structures = [data.true, data.other]
        plan = plan_scoring(read_particles(data.star_file), structures, options)
        assert len(plan.blocks) * len(structures) == N_TILES
        score_particles(plan, out, resume=resume)

    return fork(work)


def n_tiles_in(out: Path) -> int:
    """Count the tiles that are there."""
    return len(list((out / ".cryolike-wip").glob("*.npz")))


def moment(number: int, out: Path) -> bool:
    """Whether a run has come so far: so many tiles, then results, pictures, all of them drafted."""
    wip = out / ".cryolike-wip"
    drafts = wip / "results"
    if number <= N_TILES:
        return (wip / "score.json").exists() and n_tiles_in(out) >= number
    further = (drafts / "results.csv", drafts / "plots", wip / "placed.json")
    return further[(number - N_TILES - 1) % len(further)].exists()


def kill_at(
    data: ScoreSet, out: Path, number: int, seconds: float, *, resume: bool = False
) -> bool:
    """Score, killed so long after a moment; whether the run was not over before."""
    pid = start(data, out, resume=resume)
    while not moment(number, out) and os.waitid(os.P_PID, pid, _HAS_ENDED) is None:
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


_HAS_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def where_it_was(out: Path) -> str:
    """Say how far a run had come when it was killed."""
    n_results = len([name for name in files_below(out) if not name.startswith(".cryolike-wip")])
    return f"{n_tiles_in(out)} tiles, {n_results} results in place"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Kill runs shortly after each moment, and compare every file."""
    rng = random.Random(1)
    ended(fork(lambda: write_score_set(folder)))
    data = ScoreSet(folder / "relion" / "particles.star", folder / "true.mrc", folder / "other.mrc")
    whole, out = folder / "whole", folder / "out"
    ended(start(data, whole, resume=False))
    n_killed = n_late = 0
    while n_killed < N_KILLS:
        if not kill_at(data, out, n_killed, 0.02 * rng.random()):
            n_late += 1
            if n_late > 3 * N_KILLS:
                raise SystemExit("runs were over before they could be killed")
            shutil.rmtree(out)
            continue
        n_killed += 1
        told = where_it_was(out)
        if n_killed % 3 == 0 and kill_at(data, out, N_TILES + 3, 0.01 * rng.random(), resume=True):
            told += f"; killed again at {where_it_was(out)}"
        ended(start(data, out, resume=True))
        if files_below(out) != files_below(whole):
            raise SystemExit(f"killed at {told}: the resumed run differs")
        say(f"{n_killed}: {told}")
        shutil.rmtree(out)
    say(f"{n_killed} runs killed: all resumed to the same bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as name:
        main(Path(name))
