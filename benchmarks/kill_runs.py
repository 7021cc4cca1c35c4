"""Kill conversions at random moments; each must then resume to what an undisturbed run writes.

Every file of the resumed set, the manifest included, is compared byte by byte, and no other file
may be left, neither among the results nor in the system's folder for temporary files.

This process only forks others that do the work: it never computes anything itself, since threads
do not survive a fork.
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryolike import ConvertOptions, convert, plan_conversion, read_star
from cryolike.simulate import write_relion_set

RECORDS = {"lock", "run.json", "stacks.jsonl"}
"""What a run keeps in its folder for work in progress, besides drafts of files."""

KILLED_TWICE = 0.25
"""Share of the runs whose resumption is killed too."""


@dataclass(frozen=True)
class Job:
    """A set to convert, and how."""

    star_file: Path
    n_stacks: int
    batch_size: int
    plots: bool


@dataclass(frozen=True)
class Child:
    """A process that has begun to convert."""

    pid: int
    answer: int

    def wait(self) -> tuple[bool, int]:
        """Whether it was killed; otherwise how many stacks it had kept of an earlier run."""
        with os.fdopen(self.answer, "rb") as stream:
            kept = stream.read()
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            return True, 0
        if status:
            raise SystemExit("a conversion failed: see above")
        return False, int(kept)


@dataclass(frozen=True)
class Kill:
    """Where a run was when it was killed, and what the last resumption found."""

    n_files: int
    has_draft: bool
    n_kept: int
    n_kills: int


def fork(work: Callable[[Callable[[], None]], int]) -> Child:
    """Do some work in a new process, and return when it says that it is ready."""
    ready, tell_ready = os.pipe()
    answer, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(tell, b"%d" % work(lambda: os.close(tell_ready)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(tell_ready)
    os.close(tell)
    with os.fdopen(ready, "rb") as stream:
        stream.read()
    return Child(pid, answer)


def make_job(
    folder: Path, *, n_stacks: int, n_images_a_stack: int, n_pixels: int, plots: bool
) -> Job:
    """Simulate a set of three stacks, one of them compressed, that makes so many polar stacks."""
    n_images = n_stacks * n_images_a_stack - n_images_a_stack // 3

    def simulate(_: Callable[[], None]) -> int:
        write_relion_set(folder, n_images=n_images, n_pixels=n_pixels, n_stacks=3)
        return 0

    fork(simulate).wait()
    compressed = sorted(folder.rglob("*.mrcs"))[1]
    compressed.write_bytes(gzip.compress(compressed.read_bytes(), 1))
    return Job(folder / "particles.star", n_stacks, n_images_a_stack, plots)


def start(job: Job, out: Path, *, resume: bool, n_done: int = 0) -> Child:
    """Start a process that converts, and return when it has begun.

    A fresh run has begun when so many images are done; one that resumes, before it looks at what
    there is.
    """

    def work(say_ready: Callable[[], None]) -> int:
        options = ConvertOptions(batch_size=job.batch_size, plots=job.plots)
        plan = plan_conversion(read_star(job.star_file), options=options)
        said = False

        def progress(done: int, _of: int) -> None:
            nonlocal said
            if not said and done >= n_done:
                say_ready()
                said = True

        if resume:
            progress(n_done, 0)
        return convert(plan, out, skip_exist=resume, progress=progress).n_stacks_kept

    return fork(work)


def undisturbed_seconds(job: Job, out: Path) -> float:
    """Convert without disturbing; how long it took from the first images on."""
    child = start(job, out, resume=False, n_done=1)
    started = time.perf_counter()
    child.wait()
    return time.perf_counter() - started


def kill_after(job: Job, out: Path, seconds: float, *, resume: bool, n_done: int = 0) -> bool:
    """Convert, killed so long after so many images; False where it was over before."""
    child = start(job, out, resume=resume, n_done=n_done)
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    was_killed, _ = child.wait()
    return was_killed


def killed_and_resumed(job: Job, out: Path, n_done: int, delays: list[float]) -> Kill | None:
    """Kill a run that has done so many images; then resume it to the end.

    With a second delay, the first resumption is killed too. None where the run was over before it
    was killed.
    """
    if not kill_after(job, out, delays[0], resume=False, n_done=n_done):
        return None
    n_kills = 1 + sum(kill_after(job, out, delay, resume=True) for delay in delays[1:])
    n_files = len(list(out.glob("fft/*.pt")))
    drafts = {path.name for path in out.glob(".cryolike-wip/*")} - RECORDS
    _, n_kept = start(job, out, resume=True).wait()
    return Kill(n_files, bool(drafts), n_kept, n_kills)


def names_below(folder: Path) -> set[str]:
    """Names of all files and folders, relative to the folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def faults_of(out: Path, whole: Path, kill: Kill) -> list[str]:
    """Say how the resumed set differs from the undisturbed one."""
    extra, missing = names_below(out) - names_below(whole), names_below(whole) - names_below(out)
    faults = [f"{name} is left over" for name in sorted(extra)]
    faults += [f"{name} is missing" for name in sorted(missing)]
    files = [name for name in names_below(whole) - missing if (whole / name).is_file()]
    faults += [
        f"{name} differs"
        for name in sorted(files)
        if not filecmp.cmp(out / name, whole / name, shallow=False)
    ]
    if kill.n_kept < kill.n_files - 1:
        faults.append(f"only {kill.n_kept} stacks were kept, of {kill.n_files} there were")
    faults += [f"{path} is left over" for path in Path(tempfile.gettempdir()).iterdir()]
    return faults


def run(job: Job, folder: Path, *, n_kills: int, seed: int) -> list[Kill]:
    """Kill so many runs, at moments spread over the time that an undisturbed one takes."""
    rng = random.Random(seed)
    whole, out = folder / "whole", folder / "out"
    undisturbed_seconds(job, whole)
    # The first run is slower: it finds nothing in the system's caches
    seconds = undisturbed_seconds(job, out)
    shutil.rmtree(out)
    n_stacks = len(list(whole.glob("fft/*.pt")))
    if n_stacks != job.n_stacks:
        raise SystemExit(f"{n_stacks} stacks were made instead of {job.n_stacks}")
    print(f"an undisturbed run takes {seconds:.2f} s and makes {n_stacks} stacks", flush=True)
    kills: list[Kill] = []
    n_too_late = 0
    # Moments spread evenly; where a run is quicker than the one that was timed, any other
    moments = [(i + rng.random()) / n_kills for i in range(n_kills)]
    while len(kills) < n_kills:
        delays = [moments[len(kills)] * seconds]
        if n_too_late > 3 * n_kills:
            raise SystemExit(f"{n_too_late} runs were over before they could be killed")
        if rng.random() < KILLED_TWICE:
            delays.append(rng.random() * seconds)
        # What a run does before its first images takes long here, but is soon tested
        kill = killed_and_resumed(job, out, int(len(kills) % 10 > 0), delays)
        if kill is None:
            n_too_late += 1
            moments[len(kills)] = rng.random()
        elif faults := faults_of(out, whole, kill):
            raise SystemExit(f"killed after {delays} s ({kill}):\n" + "\n".join(faults))
        else:
            kills.append(kill)
            print(f"{len(kills)} of {n_kills}: {kill}", flush=True)
        shutil.rmtree(out)
    print(f"{n_too_late} more runs were over before they could be killed")
    return kills


def describe(kills: list[Kill], n_stacks: int) -> str:
    """Say how often runs were killed, and after how many complete stacks."""
    n_of = Counter(kill.n_kept for kill in kills)
    width = len(str(n_stacks))
    lines = [f"{n:{width}} complete: {'#' * n_of[n]}" for n in range(n_stacks + 1)]
    n_twice = sum(kill.n_kills > 1 for kill in kills)
    n_drafts = sum(kill.has_draft for kill in kills)
    n_torn = sum(kill.n_files > kill.n_kept for kill in kills)
    lines += [
        f"{n_drafts} died while a file was being written, {n_torn} between the files of a stack",
        f"{len(kills)} runs killed, {n_twice} of them twice: all resumed to the same bytes",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, run, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--stacks", type=int, default=20, help="stacks that a run makes")
    parser.add_argument("--images", type=int, default=96, help="images in a stack")
    parser.add_argument("--pixels", type=int, default=64, help="width of an image")
    parser.add_argument("--plots", action="store_true", help="with plots, which take long")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        tempfile.tempdir = str(folder / "tmp")
        job = make_job(
            folder / "set",
            n_stacks=given.stacks,
            n_images_a_stack=given.images,
            n_pixels=given.pixels,
            plots=given.plots,
        )
        kills = run(job, folder, n_kills=given.kills, seed=given.seed)
    print(describe(kills, given.stacks))


if __name__ == "__main__":
    main()
