"""The system refuses to write, at any moment: one clear error, nothing lost, and it can go on."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

CHANGES = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link", "fsync", "truncate")


class Disk:
    """Counts what is done to files below a folder, and refuses the n-th.

    `what` is 'writes' for data written to files, 'changes' for files and folders made, renamed and
    removed.
    """

    def __init__(self, folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.what = folder, what
        self.number, self.stays = 0, False
        self.n_done, self.fails_at = 0, 0
        self.most_at_once: int | None = None
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", self._opener(open))
        for name in CHANGES:
            monkeypatch.setattr(os, name, self._changer(getattr(os, name)))

    def refuse(self, fails_at: int, number: int, *, stays: bool) -> None:
        """Let the n-th from here on fail with an error; with `stays`, all that follow too."""
        self.n_done, self.fails_at, self.number, self.stays = 0, fails_at, number, stays

    def allow(self) -> None:
        """Let nothing fail any more."""
        self.refuse(0, 0, stays=False)

    def step(self, what: str) -> None:
        """Count, and fail where it is time."""
        if what != self.what:
            return
        self.n_done += 1
        is_after = self.stays and self.n_done > self.fails_at
        if self.fails_at and (self.n_done == self.fails_at or is_after):
            raise OSError(self.number, os.strerror(self.number))

    def _is_below(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and Path(path).is_relative_to(self.folder)

    def _changer(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(path: Any, *args: Any, **keywords: Any) -> Any:
            if self._is_below(path):
                self.step("changes")
            return original(path, *args, **keywords)

        return change

    def _opener(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", buffering: int = -1, *args: Any, **kw: Any) -> Any:
            if not set(mode) & set("wax+") or not self._is_below(path):
                return original(path, mode, buffering, *args, **kw)
            self.step("changes")
            raw = _Raw(self, path, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            if "b" in mode:
                return buffered
            text: Any = io.TextIOWrapper(buffered, *args, **kw)
            text.mode = mode
            return text

        return opened


class _Raw(io.FileIO):
    """A file on that disk."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.step("writes")
        return super().write(memoryview(data).cast("B")[: self._disk.most_at_once])


def some_of(n: int, n_wanted: int, seed: int) -> list[int]:
    """Choose the first and last, and others between, of 1 to n."""
    inner = random.Random(seed).sample(range(2, n), min(n_wanted, n) - 2)
    return sorted([1, n, *inner])


@pytest.mark.parametrize(
    ("number", "stays", "words"),
    [
        (errno.ENOSPC, True, "the disk is full"),
        (errno.EDQUOT, True, "quota"),
        (errno.EIO, False, os.strerror(errno.EIO)),
    ],
)
def test_refused_write(
    star_file: Path,
    wanted: dict[str, bytes | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    stays: bool,
    words: str,
) -> None:
    """The error has the file and the reason; complete stacks stay, and the run can go on."""
    out = tmp_path / "out"
    disk = Disk(out, "writes", monkeypatch)
    convert_set(star_file, out)
    n_writes = disk.n_done
    assert n_writes > 10 * N_STACKS
    for fails_at in some_of(n_writes, 12, seed=number):
        shutil.rmtree(out)
        disk.refuse(fails_at, number, stays=stays)
        with pytest.raises(OutputError, match=r"--resume \(skip_exist=True\)") as caught:
            convert_set(star_file, out)
        assert words in str(caught.value)
        assert str(out) in str(caught.value)
        assert len(caught.value.problems) == 1
        disk.allow()
        n_there = n_stacks_in(out)
        report = convert_set(star_file, out, skip_exist=True)
        assert n_there - 1 <= report.n_stacks_kept <= n_there
        assert files_below(out) == wanted, f"write {fails_at} failed"


@pytest.mark.parametrize("stays", [False, True])
def test_refused_change(
    star_file: Path,
    wanted: dict[str, bytes | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stays: bool,
) -> None:
    """A file or folder cannot be made, renamed or removed: the error is ours, and it can go on.

    Where it needs not be made or removed any more, nothing is wrong.
    """
    out = tmp_path / "out"
    disk = Disk(out, "changes", monkeypatch)
    convert_set(star_file, out)
    n_changes = disk.n_done
    n_errors = 0
    for fails_at in some_of(n_changes, 24, seed=1):
        shutil.rmtree(out, ignore_errors=True)
        disk.refuse(fails_at, errno.EIO, stays=stays)
        error = refused(star_file, out)
        disk.allow()
        if error is not None:
            n_errors += 1
            assert os.strerror(errno.EIO) in str(error)
            assert str(out) in str(error)
            convert_set(star_file, out, skip_exist=True)
        assert files_below(out) == wanted, f"change {fails_at} failed"
    assert n_errors > 12


def test_short_writes_are_continued(
    star_file: Path,
    wanted: dict[str, bytes | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A system that takes only part of what it is given makes no difference."""
    disk = Disk(tmp_path / "out", "writes", monkeypatch)
    disk.most_at_once = 1000
    convert_set(star_file, tmp_path / "out")
    assert files_below(tmp_path / "out") == wanted


@pytest.mark.parametrize("limit", [0, 1000, 9000])
def test_largest_file_allowed(star_file: Path, tmp_path: Path, limit: int) -> None:
    """The program ends with 1 and one sentence; without the limit it goes on."""
    out, whole = tmp_path / "out", tmp_path / "whole"

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, err = ended(program(*options_for(star_file, out), preexec_fn=lower))
    assert code == 1
    assert err.count("error: ") == 1
    assert "the file would be larger than allowed" in err
    # Where not even the lock can be written there is nothing to resume
    assert ("--resume" if limit else "Choose another output folder") in err
    assert run_program(*options_for(star_file, out), "--resume").code == 0
    assert run_program(*options_for(star_file, whole)).code == 0
    assert files_below(out) == files_below(whole)
