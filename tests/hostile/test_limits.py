"""Damaged files cost little, show nothing to a terminal but text, and need permission."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from tests.builders import SetBuilder
from tests.hostile import cryosparc_rows, stack_files, star_rows
from tests.hostile.cases import Rejected, Source
from tests.hostile.stack_sets import stack
from tests.hostile.star_sets import stars
from tests.program import run_program

from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.errors import CryoLikeError, StackError

NOBODY = 65_534


def test_file_that_expands_without_end_costs_little(
    build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 MB only what the header promises is written, and memory stays small."""
    written: list[int] = []
    open_file = tempfile.TemporaryFile

    def recorded(*arguments: Any, **keywords: Any) -> IO[bytes]:
        file: IO[bytes] = open_file(*arguments, **keywords)
        written.append(os.dup(file.fileno()))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", recorded)
    source = stack(stack_files.bomb)(build)
    plan = plan_conversion(source.read(), None, ConvertOptions(plots=False))
    tracemalloc.start()
    try:
        with pytest.raises(StackError, match="expands beyond the 3,904 bytes"):
            convert(plan, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sizes = [os.fstat(descriptor).st_size for descriptor in written]
    for descriptor in written:
        os.close(descriptor)
    assert sizes
    assert max(sizes) <= 3_904
    assert peak < 30e6


def test_names_cannot_command_the_terminal(build: SetBuilder, tmp_path: Path) -> None:
    """Control characters in a name are shown, not sent."""
    path = build.cryosparc(["J1/\x1b]0;owned\x07\x1b[2J.mrc"], [0])
    outcome = run_program("convert", "cryosparc", path, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert r"J1/\x1b]0;owned\x07\x1b[2J.mrc" in outcome.err
    assert "\x1b]" not in outcome.err
    assert "\x07" not in outcome.err


@contextmanager
def without_permissions() -> Iterator[None]:
    """Act as a user who may not read everything."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except OSError:
        pytest.skip("root cannot act as another user here")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable() -> Iterator[SetBuilder]:
    """Make a builder in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield SetBuilder(Path(folder))


def lock_star(source: Source) -> None:
    """Take the permission to read the STAR file."""
    Path(source.words[1]).chmod(0)


def lock_stack(source: Source) -> None:
    """Take the permission to read a stack."""
    (Path(source.words[1]).parent / "Particles/stack_01.mrcs").chmod(0)


def lock_folder(source: Source) -> None:
    """Take the permission to enter the folder of the stacks."""
    (Path(source.words[1]).parent / "Particles").chmod(0)


@pytest.mark.parametrize(
    ("lock", "says"),
    [
        (lock_star, ("particles.star: cannot be read: Permission denied", "Check its permissions")),
        (lock_stack, ("stack_01.mrcs: may not be read (2 of 5 rows)", "Ask for permission")),
        (lock_folder, ("2 of 2 files not found (5 of 5 rows)", "may not be looked at: no permi")),
    ],
)
def test_files_without_permission(
    lock: Callable[[Source], None],
    says: tuple[str, ...],
    readable: SetBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file is named, and that it is for want of permission."""
    monkeypatch.chdir(readable.folder)
    source = stars(readable)
    plan_conversion(source.read())
    lock(source)
    with without_permissions():
        with pytest.raises(CryoLikeError) as caught:
            plan_conversion(source.read())
        message = str(caught.value)  # places are described when they are printed
    assert [part for part in says if part not in message] == []


def test_output_without_permission(
    readable: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named; no part of it is made."""
    # another user may not look the version up where the package is installed
    monkeypatch.setattr("cryolike.conversion.run.version", lambda _: "0")
    source, out = stars(readable), readable.folder / "out"
    plan = plan_conversion(source.read(), None, ConvertOptions(plots=False))
    convert(plan, tmp_path / "out")  # loads all modules, which another user may not
    readable.folder.chmod(0o555)
    with without_permissions(), pytest.raises(CryoLikeError) as caught:
        convert(plan, out)
    assert f"{out} cannot be written: no permission" in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "case",
    [
        next(case for case in cases if case.id == "all-at-once")
        for cases in (star_rows.REJECTED, cryosparc_rows.REJECTED)
    ],
    ids=["star", "cryosparc"],
)
def test_inspect_lists_the_same(
    case: Rejected, build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is wrong with the set itself is told by inspecting it, too."""
    monkeypatch.chdir(build.folder)
    source = case.make(build)
    with pytest.raises(CryoLikeError) as caught:
        plan_conversion(source.read())
    outcome = run_program("inspect", source.words[1])
    assert outcome.code == 1
    of_the_set = [p for p in caught.value.problems if "most rows" not in p.message]
    assert [str(p) for p in of_the_set if str(p) not in outcome.err] == []
    assert len(of_the_set) >= 8
