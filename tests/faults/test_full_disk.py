"""A disk that fills up while a run writes, or that may not be written to."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.runs import (
    N_STACKS,
    convert_set,
    ended,
    files_below,
    n_stacks_in,
    options_for,
    program,
    refused,
)
from tests.program import run_program

from cryolike.errors import OutputError

PAGE = 4096
PLENTY = 64 * 2**20


@dataclass(frozen=True)
class SmallDisk:
    """A disk of its own below a folder."""

    folder: Path

    def remount(self, options: str) -> None:
        """Change its size or its permissions."""
        subprocess.run(
            ["mount", "-o", f"remount,{options}", str(self.folder)], check=True, capture_output=True
        )

    def resize(self, n_bytes: int) -> None:
        """Make it so large."""
        self.remount(f"size={n_bytes}")

    def fill(self, n_left: int) -> Path:
        """Write a file that leaves so many bytes, or fewer where somebody else writes too."""
        state = os.statvfs(self.folder)
        file = self.folder / "filler"
        try:
            file.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - n_left)))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return file


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a disk in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={PLENTY}", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted ({error}): run as root, or under `unshare -rm`")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_full_at_any_page(
    star_file: Path, wanted: dict[str, bytes | None], disk: SmallDisk
) -> None:
    """Whatever it is that does not fit: one error, stacks kept, and with more room it goes on."""
    out = disk.folder / "out"
    n_bytes = sum(len(data) for name, data in wanted.items() if data and name.endswith(".pt"))
    n_errors = n_refused = 0
    for size in range((n_bytes // PAGE - 4) * PAGE, n_bytes + PLENTY, 2 * PAGE):
        disk.resize(size)
        error = refused(star_file, out)
        if error is None:
            break
        assert len(error.problems) == 1
        if "will be written, but only" in str(error):
            n_refused += 1
            assert not out.exists()
        else:
            n_errors += 1
            assert "the disk is full. Complete stacks are kept" in str(error)
        disk.resize(PLENTY)
        n_there = n_stacks_in(out)
        report = convert_set(star_file, out, skip_exist=True)
        assert n_there - 1 <= report.n_stacks_kept <= n_there
        assert files_below(out) == wanted
        shutil.rmtree(out)
    assert files_below(out) == wanted
    assert n_refused >= 1
    assert n_errors > 2 * N_STACKS


@pytest.mark.parametrize("n_done", [1, 8, 16])
@pytest.mark.parametrize("n_left", [0, PAGE, 5 * PAGE])
def test_somebody_else_fills_the_disk(
    star_file: Path, wanted: dict[str, bytes | None], disk: SmallDisk, n_done: int, n_left: int
) -> None:
    """There was room when the run began; the complete stacks are not made again."""
    out = disk.folder / "out"
    disk.resize(2**20)
    fillers: list[Path] = []

    def progress(done: int, _of: int) -> None:
        if done >= n_done and not fillers:
            fillers.append(disk.fill(n_left))

    with pytest.raises(OutputError, match=r"the disk is full.*--resume \(skip_exist=True\)"):
        convert_set(star_file, out, progress=progress)
    before = {path: path.stat().st_ino for path in out.glob("fft/*.pt")}
    fillers[0].unlink(missing_ok=True)
    report = convert_set(star_file, out, skip_exist=True)
    assert report.n_stacks_kept >= max(len(before) - 1, n_done // 4 - 2)
    kept = sorted(before)[: report.n_stacks_kept]
    assert [path.stat().st_ino for path in kept] == [before[path] for path in kept]
    assert files_below(out) == wanted


def test_full_disk_on_the_command_line(star_file: Path, tmp_path: Path, disk: SmallDisk) -> None:
    """The images would fit, the plots do not: exit code 1, one sentence, and --resume goes on."""
    out = disk.folder / "out"
    disk.resize(2**19)
    code, err = ended(program(*options_for(star_file, out, plots=True)))
    assert code == 1
    assert err.count("error: ") == 1
    assert "the disk is full" in err
    assert "--resume" in err
    n_there = n_stacks_in(out)
    assert n_there > 1
    disk.resize(PLENTY)
    outcome = run_program(*options_for(star_file, out, plots=True), "--resume", "--json")
    assert outcome.code == 0
    assert n_there - 1 <= json.loads(outcome.out)["n_stacks_kept"] <= n_there
    run_program(*options_for(star_file, tmp_path / "whole", plots=True))
    assert files_below(out) == files_below(tmp_path / "whole")


def test_disk_that_becomes_read_only(
    star_file: Path, wanted: dict[str, bytes | None], disk: SmallDisk
) -> None:
    """As a failing disk does: nothing is written to it, neither afresh nor on."""
    out = disk.folder / "out"

    def progress(done: int, _of: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_set(star_file, out, progress=progress)
    before = files_below(disk.folder)
    disk.remount("ro")
    with pytest.raises(OutputError, match="the file system is read-only"):
        convert_set(star_file, out, skip_exist=True)
    with pytest.raises(OutputError, match="the file system is read-only"):
        convert_set(star_file, disk.folder / "other")
    outcome = run_program(*options_for(star_file, disk.folder / "other"))
    assert outcome.code == 1
    assert "the file system is read-only" in outcome.err
    assert files_below(disk.folder) == before
    disk.remount("rw")
    convert_set(star_file, out, skip_exist=True)
    assert files_below(out) == wanted


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(star_file: Path, tmp_path: Path) -> None:
    """The error names the folder, and it stays as it was."""
    parent = tmp_path / "parent"
    parent.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="no permission") as caught:
        convert_set(star_file, parent / "out")
    assert str(parent / "out") in str(caught.value)
    assert not any(parent.iterdir())
