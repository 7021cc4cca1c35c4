"""Output folders that cannot be written to, or must not be, and options that contradict them."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.builders import SetBuilder
from tests.hostile.cases import Source, tree
from tests.hostile.star_sets import stars
from tests.program import Outcome, run_program

from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.errors import (
    CryoLikeError,
    IncompleteOutputError,
    OutputError,
    OutputExistsError,
    UsageError,
)
from cryolike.store import open_stacks

Usage = namedtuple("Usage", "total used free")


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An output folder that a run must leave as it is.

    Parameters
    ----------
    id
        What is in the way.
    prepare
        Given the set and the folder, which does not exist yet, puts it there.
    says
        Parts of the message, what to do among them.
    flags
        Of the command: --resume, --overwrite.
    """

    id: str
    prepare: Callable[[Source, Path], object]
    says: tuple[str, ...]
    flags: tuple[str, ...] = ()
    error: type[CryoLikeError] = OutputExistsError


def finish(source: Source, out: Path, batch_size: int = 1024) -> None:
    """Convert the set."""
    options = ConvertOptions(plots=False, batch_size=batch_size)
    convert(plan_conversion(source.read(), None, options), out)


def finish_without(source: Source, out: Path, *names: str) -> None:
    """Convert the set, and remove some files."""
    finish(source, out)
    for name in names:
        (out / name).unlink()


def finish_then(source: Source, out: Path, change: Callable[[], object]) -> None:
    """Convert the set, then change something."""
    finish(source, out)
    change()


def metadata_file(source: Source) -> Path:
    """STAR file of the set."""
    return Path(source.words[1])


def damage_manifest(out: Path) -> None:
    """Cut the manifest."""
    (out / "manifest.json").write_text((out / "manifest.json").read_text()[:100])


def another_version(out: Path) -> None:
    """Let the manifest be of a version to come."""
    values = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(values | {"format_version": 99}))


def link_to_source(source: Source, out: Path) -> None:
    """Let a file of the output be the metadata."""
    out.mkdir()
    (out / "manifest.json").symlink_to(metadata_file(source))


REFUSED = [
    Refused(
        id="finished-run",
        prepare=finish,
        says=("out already holds 3 files of a conversion", "--resume", "--overwrite"),
    ),
    Refused(
        id="stacks-of-another-program",
        prepare=lambda source, out: finish_without(source, out, "manifest.json"),
        says=("out already holds 2 files", "particles_fourier_stack_000000.npz", "another folder"),
    ),
    Refused(
        id="stacks-without-a-record-cannot-be-resumed",
        prepare=lambda source, out: finish_without(source, out, "manifest.json"),
        flags=("--resume",),
        says=("no record of the run that wrote them", "Use --overwrite, or another folder."),
    ),
    Refused(
        id="run-with-other-options-cannot-be-resumed",
        prepare=lambda source, out: finish(source, out, batch_size=2),
        flags=("--resume",),
        says=("a run with other settings", "batch_size: 2 then, 1024 now", "another folder"),
    ),
    Refused(
        id="run-of-changed-sources-cannot-be-resumed",
        prepare=lambda source, out: finish_then(
            source, out, lambda: os.utime(metadata_file(source), ns=(0, 0))
        ),
        flags=("--resume",),
        says=("1 source file", "particles.star", "Convert anew with --overwrite."),
    ),
    Refused(
        id="damaged-manifest-cannot-be-resumed",
        prepare=lambda source, out: finish_then(source, out, lambda: damage_manifest(out)),
        flags=("--resume",),
        error=IncompleteOutputError,
        says=("manifest.json is damaged", "Convert again"),
    ),
    Refused(
        id="later-version-cannot-be-resumed",
        prepare=lambda source, out: finish_then(source, out, lambda: another_version(out)),
        flags=("--resume",),
        error=IncompleteOutputError,
        says=("manifest.json has format version 99", "Use the version of cryolike that wrote it"),
    ),
    Refused(
        id="resuming-and-overwriting",
        prepare=finish,
        flags=("--resume", "--overwrite"),
        error=UsageError,
        says=("--resume", "--overwrite", "contradict each other: choose one"),
    ),
    Refused(
        id="file-in-place-of-the-folder",
        prepare=lambda _, out: out.write_text("mine"),
        says=("out is a file, not a folder", "Choose another output folder."),
    ),
    Refused(
        id="file-in-place-of-the-folder-is-not-overwritten",
        prepare=lambda _, out: out.write_text("mine"),
        flags=("--overwrite",),
        says=("out is a file, not a folder", "Choose another output folder."),
    ),
    Refused(
        id="link-to-nothing",
        prepare=lambda _, out: out.symlink_to("/mnt/elsewhere/out"),
        error=OutputError,
        says=("out", "cannot be written"),
    ),
    Refused(
        id="source-would-be-overwritten",
        prepare=link_to_source,
        flags=("--overwrite",),
        error=OutputError,
        says=("manifest.json is a source file", "Choose another output folder."),
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused(
    case: Refused, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Library and program refuse with the same words, and nothing changes."""
    monkeypatch.chdir(build.folder)
    source, out = stars(build), tmp_path / "out"
    case.prepare(source, out)
    before = tree(tmp_path)
    plan = plan_conversion(source.read(), None, ConvertOptions(plots=False))
    resume, overwrite = ("--resume" in case.flags, "--overwrite" in case.flags)
    with pytest.raises(CryoLikeError) as caught:
        convert(plan, out, skip_exist=resume, overwrite=overwrite)
    assert type(caught.value) is case.error
    assert [part for part in case.says if part not in str(caught.value)] == []
    assert tree(tmp_path) == before

    outcome = run_program("convert", *source.words, "-o", out, "--no-plots", "-q", *case.flags)
    assert outcome.code == (2 if case.error is UsageError else 1)
    assert [part for part in case.says if part not in outcome.err] == []
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["particles.star/out", "x" * 300, "Particles/stack_01.mrcs/out"])
def test_folder_that_cannot_be_made(build: SetBuilder, name: str) -> None:
    """Below a file, or of a name too long: one line says which and why."""
    source = stars(build)
    before = tree(build.folder)
    outcome = run_program("convert", *source.words, "-o", build.folder / name, "--no-plots", "-q")
    assert outcome.code == 1
    assert f"error: {build.folder / name}" in outcome.err
    assert tree(build.folder) == before


def test_disk_that_cannot_hold_it(
    build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What will be written and what is free are told before anything is."""
    source, out = stars(build), tmp_path / "out"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - 1000, 1000))
    before = tree(tmp_path)
    outcome = run_program("convert", *source.words, "-o", out, "--no-plots", "-q")
    assert outcome.code == 1
    assert f"{out}: " in outcome.err
    assert "will be written, but only" in outcome.err
    assert "Choose another disk" in outcome.err
    assert tree(tmp_path) == before


def test_two_runs_in_one_folder(build: SetBuilder, tmp_path: Path) -> None:
    """The second one is refused while the first one runs, and the first one does not notice."""
    source, out = stars(build), tmp_path / "out"
    plan = plan_conversion(source.read(), None, ConvertOptions(plots=False))
    words = ("convert", *source.words, "-o", out, "--no-plots", "-q")
    outcomes: list[Outcome] = []

    def start_another(*_: object) -> None:
        if not outcomes:
            outcomes.append(run_program(*words))
            outcomes.extend(run_program(*words, flag) for flag in ("--resume", "--overwrite"))

    convert(plan, out, progress=start_another)
    assert [outcome.code for outcome in outcomes] == [1, 1, 1]
    wanted = f"error: {out} is being written to by process {os.getpid()}"
    assert all(wanted in outcome.err for outcome in outcomes)
    assert all("Wait for it, or stop it." in outcome.err for outcome in outcomes)
    assert len(open_stacks(out).table["source_row"]) == 5


def test_output_inside_the_input_folder(build: SetBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is accepted, and what was there before is as it was."""
    monkeypatch.chdir(build.folder)
    source = stars(build)
    before = tree(build.folder)
    outcome = run_program("convert", *source.words, "-o", build.folder, "--no-plots", "-q")
    assert outcome.code == 0
    after = tree(build.folder)
    assert {name: after.get(name) for name in before} == before
    new = sorted(name for name in after.keys() - before.keys() if not name.endswith("fft"))
    assert new == [
        "fft/particles_fourier_stack_000000.npz",
        "fft/particles_fourier_stack_000000.pt",
        "manifest.json",
    ]
