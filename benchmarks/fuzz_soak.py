"""Damaged files by the thousand, each read under a limit of time and memory.

    python benchmarks/fuzz_soak.py --minutes 30 --seed 1 --kinds star,cs --folder crashers

Inputs are made from `cryolike.testing` and numbered; the seed, the number and the kinds decide what
an input is. Every input that is neither read nor refused with an error of cryolike is made smaller
and kept in the folder, with the trace. The exit status is 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from cryolike import testing
from cryolike.conversion import (
    ConvertOptions,
    convert,
    inspect_particles,
    plan_conversion,
    survey,
)
from cryolike.conversion.inspection import summarise
from cryolike.descriptor import ImageDescriptor
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.mrc_header import read_stack_header
from cryolike.io.star import read_star, read_star_without_names
from cryolike.simulate import write_relion_set
from cryolike.store import open_stacks

CPU_SECONDS = 10.0
"""That one input may take; of processor time, so that a busy machine changes nothing."""

SILENT_SECONDS = 120
"""After which a worker that reports nothing is ended."""

MEMORY_BYTES = 1_000_000_000
"""Of address space that a worker may take beyond what it has at its start."""

MINIMISING_SECONDS = 10.0

Files = Mapping[str, bytes]
Check = Callable[[Path], str]


class TooSlow(BaseException):
    """An input takes longer than it may; no `except Exception` holds it up."""


@dataclass(frozen=True)
class Case:
    """Files to write below a folder, and what to do with them there.

    `check` returns 'read' or 'refused'; anything that it raises is a finding.
    """

    files: Files
    damaged: str
    check: Check


# Kinds of inputs


def star_case(random: Random) -> Case:
    """Damage a STAR file; read it in both ways and inspect it."""
    content = testing.damage_star(random, testing.make_star_file(random).content)

    def check(folder: Path) -> str:
        path = folder / "a.star"
        tables = [
            testing.result_or_refusal(read_star, path),
            testing.result_or_refusal(read_star_without_names, path),
        ]
        read = [table for table in tables if not isinstance(table, Exception)]
        for table in read:
            testing.check_table(table)
        testing.result_or_refusal(inspect_particles, path)
        return "read" if read else "refused"

    return Case({"a.star": content}, "a.star", check)


def cs_case(random: Random) -> Case:
    """Damage a .cs file or its passthrough file; read both."""
    made = testing.make_cs_file(random)
    files = {"a.cs": made.content}
    if made.passthrough:
        files["a_passthrough.cs"] = made.passthrough
    damaged = random.choice(sorted(files))
    files[damaged] = testing.damage_cs(random, files[damaged])
    named = (
        [made.passthrough_path(Path("a.cs"))] if made.passthrough and random.random() < 0.5 else []
    )

    def check(folder: Path) -> str:
        passthrough = [folder / name for name in named]
        table = testing.result_or_refusal(read_cryosparc, folder / "a.cs", passthrough=passthrough)
        if isinstance(table, Exception):
            return "refused"
        testing.check_table(table)
        return "read"

    return Case(files, damaged, check)


def mrc_case(random: Random) -> Case:
    """Damage a stack; read its header and its images."""
    content = testing.damage_mrc(random, testing.make_mrc_file(random).content)

    def check(folder: Path) -> str:
        header = testing.result_or_refusal(read_stack_header, folder / "a.mrcs")
        if isinstance(header, Exception):
            return "refused"
        testing.check_header(header)
        images = testing.result_or_refusal(testing.read_images, header)
        return "refused" if isinstance(images, Exception) else "read"

    return Case({"a.mrcs": content}, "a.mrcs", check)


def set_case(random: Random) -> Case:
    """Damage a file of a set; read, survey, summarise and plan it."""
    valid = testing.make_particle_set(random)
    made = testing.damage_set(random, valid)
    name = next((n for n in valid.files if made.files.get(n) != valid.files[n]), made.metadata)
    options = ConvertOptions(
        on_bad_row=random.choice(("error", "skip")),
        folder=random.choice(("", "", "Extract")),
        pixel_size_A=random.choice((None, None, 1.25)),
        downsample_factor=random.choice((1, 1, 2)),
    )

    def check(folder: Path) -> str:
        table = testing.result_or_refusal(made.read, folder)
        if isinstance(table, Exception):
            return "refused"
        testing.check_table(table)
        below = str(folder / options.folder) if options.folder else ""
        surveyed = testing.result_or_refusal(survey, table, below)
        if isinstance(surveyed, Exception):
            raise surveyed  # it promises to raise nothing
        testing.check_problems((*surveyed.problems, *surveyed.notices), len(table))
        json.dumps(testing.result_or_refusal(summarise, surveyed).to_dict())
        plan = testing.result_or_refusal(
            plan_conversion, table, None, replace(options, folder=below)
        )
        if isinstance(plan, Exception):
            return "refused"
        plan.describe()
        n_images = np.array([header.n_images for header in plan.headers])
        assert np.all(plan.table.image_index < n_images[plan.table.image_file_index])
        assert {header.box_px for header in plan.headers} == {plan.headers[0].box_px}
        return "read"

    return Case(made.files, name, check)


def descriptor_case(random: Random) -> Case:
    """Damage a saved image descriptor, and load it."""
    content = testing.damage_npz(random, _valid_descriptor())

    def check(folder: Path) -> str:
        loaded = testing.result_or_refusal(ImageDescriptor.load, folder / "a.npz")
        if isinstance(loaded, Exception):
            return "refused"
        loaded.describe()
        return "read"

    return Case({"a.npz": content}, "a.npz", check)


def converted_case(random: Random) -> Case:
    """Damage a converted set, and open it."""
    files = dict(_converted_set())
    name = random.choice(sorted(files))
    damage = testing.damaged_bytes
    if name.endswith(".npz") or (name.endswith(".pt") and random.random() < 0.5):
        damage = testing.damage_npz
    elif name.endswith(".json"):
        damage = testing.damage_star
    files[name] = damage(random, files[name])

    def use(folder: Path) -> None:
        stacks = open_stacks(folder)
        stacks.descriptor.describe()
        for i in range(stacks.n_stacks):
            stacks.images(i)
        len(stacks.table)
        stacks[0], stacks[-1]

    def check(folder: Path) -> str:
        result = testing.result_or_refusal(use, folder)
        return "read" if result is None else "refused"

    return Case(files, name, check)


KINDS: dict[str, Callable[[Random], Case]] = {
    "star": star_case,
    "cs": cs_case,
    "mrc": mrc_case,
    "set": set_case,
    "descriptor": descriptor_case,
    "converted": converted_case,
}


@cache
def _valid_descriptor() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        ImageDescriptor.from_individual_values(8, 2.0).save(Path(folder) / "a.npz")
        return (Path(folder) / "a.npz").read_bytes()


@cache
def _converted_set() -> Files:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        star = write_relion_set(Path(name), n_images=5, n_pixels=8, n_stacks=2)
        convert(
            plan_conversion(read_star(star), None, ConvertOptions(batch_size=3, plots=False)), out
        )
        return {
            str(path.relative_to(out)): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }


# One input


@dataclass(frozen=True)
class Finding:
    """What went wrong: the kind of error, where in cryolike, and the trace."""

    error: str
    place: str
    trace: str


def write(files: Files, folder: Path) -> None:
    """Write files to an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def too_slow(*_: object) -> None:
    """Handle the signal that the time is over."""
    raise TooSlow


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise `TooSlow` in what takes more processor time than it may."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def outcome_of(case: Case, folder: Path) -> str | Finding:
    """Run one input: 'read', 'refused', or what went wrong."""
    write(case.files, folder)
    try:
        with limited_time():
            return case.check(folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, it is the finding
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "cryolike" in f.filename]
        frames = [f for f in frames if "testing" not in f.filename] or frames
        last = frames[-1] if frames else None
        place = f"{Path(last.filename).name}:{last.lineno}" if last else ""
        return Finding(type(error).__name__, place, traceback.format_exc())


def minimised(case: Case, finding: Finding, folder: Path) -> Case:
    """Cut pieces out of the damaged file for as long as the same thing goes wrong."""
    started = time.monotonic()
    content = case.files.get(case.damaged)
    if content is None or finding.error == "TooSlow":
        return case
    size = max(1, len(content) // 2)
    while size:
        at = 0
        while at < len(content):
            if time.monotonic() - started > MINIMISING_SECONDS:
                return case
            shorter = content[:at] + content[at + size :]
            tried = Case({**case.files, case.damaged: shorter}, case.damaged, case.check)
            found = outcome_of(tried, folder)
            same = isinstance(found, Finding) and (found.error, found.place) == (
                finding.error,
                finding.place,
            )
            if same:
                case, content = tried, shorter
            else:
                at += size
        size //= 2
    return case


# Worker: runs inputs one after the other, and reports each in a line


def case_of(seed: int, number: int, kinds: list[str]) -> tuple[str, Case]:
    """Make the input of a number."""
    random = Random(f"{seed} {number}")
    kind = kinds[number % len(kinds)]
    return kind, KINDS[kind](random)


def work(
    seed: int, first: int, stop: float, kinds: list[str], folder: Path, deadline: float
) -> None:
    """Run inputs from one number to before another, or until a time."""
    signal.signal(signal.SIGPROF, too_slow)
    for kind in kinds:
        case_of(seed, kinds.index(kind), kinds)  # makes what is kept
    taken = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number, known = first, set()
    scratch = folder / "input"
    while time.time() < deadline and number < stop:
        kind, case = case_of(seed, number, kinds)
        report({"number": number, "kind": kind})
        started = time.process_time()
        outcome = outcome_of(case, scratch)
        seconds = time.process_time() - started
        if isinstance(outcome, Finding):
            key = f"{kind}-{outcome.error}-{outcome.place}".replace(":", "-")
            is_new = key not in known and not (folder / key).exists()
            known.add(key)
            if is_new:
                keep(minimised(case, outcome, scratch), outcome, folder / key, f"{seed} {number}")
            report({"outcome": f"{outcome.error} at {outcome.place}", "seconds": seconds})
        else:
            report({"outcome": outcome, "seconds": seconds})
        number += 1


def report(entry: dict[str, object]) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()


def keep(case: Case, finding: Finding, folder: Path, number: str) -> None:
    """Keep a finding."""
    write(case.files, folder)
    (folder / "trace.txt").write_text(
        f"seed and number: {number}; damaged file: {case.damaged}\n\n{finding.trace}"
    )


# Parent: starts workers, counts, and keeps what ends a worker


@dataclass
class Tally:
    """What has happened so far."""

    outcomes: Counter[tuple[str, str]]
    slowest: float = 0.0
    slowest_input: str = ""
    number: int = -1

    def summary(self, seconds: float) -> str:
        """Say it in a table."""
        n = sum(self.outcomes.values())
        lines = [f"{n:,} inputs in {seconds / 60:.1f} minutes ({n / max(seconds, 1):.0f} a second)"]
        lines += [
            f"  {kind:<11} {what:<40} {k:>9,}" for (kind, what), k in sorted(self.outcomes.items())
        ]
        lines.append(f"  slowest: {self.slowest:.2f} s of processor time ({self.slowest_input})")
        return "\n".join(lines)

    @property
    def n_findings(self) -> int:
        """Inputs that were neither read nor refused."""
        return sum(k for (_, what), k in self.outcomes.items() if what not in ("read", "refused"))


def supervise(arguments: argparse.Namespace) -> Tally:
    """Run workers until the time is over."""
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally(Counter(), number=arguments.first - 1)
    deadline = time.time() + 60 * arguments.minutes
    with suppress(KeyboardInterrupt):  # what was found until then is summed up
        while time.time() < deadline and tally.number + 1 < arguments.stop:
            run_worker(arguments, folder, tally, deadline)
    return tally


def run_worker(arguments: argparse.Namespace, folder: Path, tally: Tally, deadline: float) -> None:
    """Run one worker until it ends, or is silent for too long."""
    command = [sys.executable, __file__, "--worker", "--first", str(tally.number + 1)]
    command += ["--seed", str(arguments.seed), "--kinds", arguments.kinds]
    command += ["--folder", str(folder), "--deadline", str(deadline)]
    command += ["--stop", str(arguments.stop)]
    # With an arena for each thread, address space would say little about memory.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        kind, running = "", False
        while select.select([worker.stdout], [], [], SILENT_SECONDS)[0]:
            line = worker.stdout.readline()
            if not line:
                break
            entry = json.loads(line)
            if "number" in entry:
                kind, tally.number, running = entry["kind"], entry["number"], True
                continue
            running = False
            tally.outcomes[kind, entry["outcome"]] += 1
            if entry["seconds"] > tally.slowest:
                tally.slowest = entry["seconds"]
                tally.slowest_input = f"{kind}, number {tally.number}"
        else:
            worker.kill()
        worker.wait()
    if worker.returncode == 1:
        raise SystemExit("the worker failed, see above")
    if running and time.time() < deadline:
        tally.outcomes[kind, f"worker ended ({worker.returncode})"] += 1
        shutil.copytree(folder / "input", folder / f"{kind}-ended-{tally.number}")


def main() -> int:
    """Parse arguments, run, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--stop", type=float, default=math.inf, help="number to stop before")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of: " + ", ".join(KINDS))
    parser.add_argument("--folder", default="fuzz-findings", help="where findings are kept")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kinds = arguments.kinds.split(",")
        numbers = (arguments.first, arguments.stop)
        work(arguments.seed, *numbers, kinds, Path(arguments.folder), arguments.deadline)
        return 0
    started = time.time()
    tally = supervise(arguments)
    print(tally.summary(time.time() - started))
    return 1 if tally.n_findings else 0


if __name__ == "__main__":
    sys.exit(main())
