"""The program as a process: interrupted, ended, started twice, and with sources that changed."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
from tests.faults.runs import ended, files_below, n_stacks_in, options_for, program, wait_until
from tests.program import run_program

from cryolike.simulate import write_relion_set

N_STACKS = 150
INTERRUPTED = 130


@pytest.fixture(scope="module")
def long_star_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a set that takes some seconds, in 150 stacks."""
    folder = tmp_path_factory.mktemp("long")
    return write_relion_set(folder, n_images=4 * N_STACKS, n_pixels=16, n_stacks=3)


@pytest.fixture(scope="module")
def long_wanted(
    long_star_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes | None]:
    """Give all files of an undisturbed run of it."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run_program(*options_for(long_star_file, out)).code == 0
    return files_below(out)


@dataclass(frozen=True)
class Running:
    """A run in another process, of which some stacks are complete."""

    process: Popen[str]
    out: Path
    arguments: list[str]

    def processor_seconds(self) -> float:
        """How long processors have worked on it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resume(self) -> None:
        """Run again to the end."""
        outcome = run_program(*self.arguments, "--resume")
        assert outcome.code == 0, outcome.err


@pytest.fixture
def running(long_star_file: Path, tmp_path: Path) -> Iterator[Running]:
    """Start the program; three stacks are there."""
    out = tmp_path / "out"
    arguments = options_for(long_star_file, out)
    process = program(*arguments)
    wait_until(lambda: n_stacks_in(out) >= 3, process)
    yield Running(process, out, arguments)
    process.kill()
    process.communicate()


def test_interrupted_once(running: Running, long_wanted: dict[str, bytes | None]) -> None:
    """Ctrl-C ends it within two seconds with 130; it says how to resume, and that works."""
    seconds_before = running.processor_seconds()
    started = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    _, status, usage = os.wait4(running.process.pid, 0)
    # On a machine that does other things too, only what it did itself is to its charge
    assert usage.ru_utime + usage.ru_stime - seconds_before < 2
    assert time.monotonic() - started < 20
    running.process.returncode = os.waitstatus_to_exitcode(status)
    code, err = ended(running.process)
    assert code == INTERRUPTED
    assert re.search(r"error: interrupted\. Complete stacks are kept:.*--resume", err)
    assert 3 <= n_stacks_in(running.out) < N_STACKS
    running.resume()
    assert files_below(running.out) == long_wanted


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_interrupted_by_someone_impatient(
    running: Running, long_wanted: dict[str, bytes | None], seconds: float
) -> None:
    """Ctrl-C a second and a third time does no harm."""
    for _ in range(3):
        running.process.send_signal(signal.SIGINT)
        time.sleep(seconds)
    code, _ = ended(running.process)
    assert code in (INTERRUPTED, -signal.SIGINT)
    running.resume()
    assert files_below(running.out) == long_wanted


def test_ended_by_the_system(running: Running, long_wanted: dict[str, bytes | None]) -> None:
    """SIGTERM, as at a shutdown or the end of a batch job's time: it can be resumed."""
    running.process.send_signal(signal.SIGTERM)
    code, _ = ended(running.process)
    assert code != 0
    running.resume()
    assert files_below(running.out) == long_wanted


def test_second_run_stops_at_once(running: Running, long_wanted: dict[str, bytes | None]) -> None:
    """Whatever is asked of it, it names process and machine of the first, which is undisturbed."""
    # Stopped, so that it is not over too soon; it holds the folder all the same
    running.process.send_signal(signal.SIGSTOP)
    os.waitpid(running.process.pid, os.WUNTRACED)
    before = files_below(running.out)
    owner = f"process {running.process.pid} on {socket.gethostname()}"
    code, err = ended(program(*running.arguments))
    assert code == 1
    assert owner in err
    for option in ("--resume", "--overwrite"):
        started = time.monotonic()
        outcome = run_program(*running.arguments, option)
        assert time.monotonic() - started < 5
        assert outcome.code == 1
        assert owner in outcome.err
    assert files_below(running.out) == before
    running.process.send_signal(signal.SIGCONT)
    code, err = ended(running.process)
    assert code == 0, err
    assert files_below(running.out) == long_wanted


@pytest.mark.parametrize("which", ["metadata", "stack"])
def test_source_that_changed_in_between(
    star_file: Path, tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go on is refused, naming the file; with its old time it is the same file again."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    source = star_file if which == "metadata" else sorted(star_file.parent.rglob("*.mrcs"))[1]
    arguments = options_for(star_file, out)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cryolike.conversion.run.RunFolder.finish", stop)
        assert run_program(*arguments).code == INTERRUPTED
    before, state, data = files_below(out), source.stat(), source.read_bytes()
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    outcome = run_program(*arguments, "--resume")
    assert outcome.code == 1
    assert f"{source} was modified at another time than recorded" in outcome.err
    source.write_bytes(data + b"\n")
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    outcome = run_program(*arguments, "--resume")
    assert outcome.code == 1
    assert f"{source} had {len(data):,} bytes and has {len(data) + 1:,}" in outcome.err
    assert files_below(out) == before
    source.write_bytes(data)
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run_program(*arguments, "--resume").code == 0
    assert run_program(*options_for(star_file, whole)).code == 0
    assert files_below(out) == files_below(whole)
