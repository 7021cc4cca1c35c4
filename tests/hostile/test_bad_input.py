"""Sets that must not be converted, and odd ones that must: each with what the user is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.builders import SetBuilder
from tests.hostile import (
    cryosparc_files,
    cryosparc_odd,
    cryosparc_rows,
    jobs,
    pairs,
    stack_files,
    stack_odd,
    star_files,
    star_odd,
    star_rows,
)
from tests.hostile.cases import Accepted, Case, Make, Rejected, Source, option_words, tree
from tests.hostile.cryosparc_sets import UID
from tests.program import Outcome, run_program

from cryolike.conversion import ConversionPlan, ConvertOptions, convert, plan_conversion
from cryolike.errors import CryoLikeError

REJECTED = {
    "star": [*star_files.REJECTED, *star_rows.REJECTED],
    "cryosparc": [*cryosparc_files.REJECTED, *cryosparc_rows.REJECTED],
    "job": jobs.REJECTED,
    "paired": pairs.REJECTED,
    "mrc": stack_files.REJECTED,
}
ACCEPTED = {
    "star": star_odd.ACCEPTED,
    "cryosparc": cryosparc_odd.ACCEPTED,
    "job": jobs.ACCEPTED,
    "paired": pairs.ACCEPTED,
    "mrc": stack_odd.ACCEPTED,
}


def of_kind(cases: dict[str, list[Rejected]] | dict[str, list[Accepted]]) -> pytest.MarkDecorator:
    """Parametrise a test by all cases, each named with its kind."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{kind}-{case.id}")
            for kind, of_this_kind in cases.items()
            for case in of_this_kind
        ],
    )


def plan_of(case: Case, source: Source) -> ConversionPlan:
    """Plan the conversion of a set."""
    options = ConvertOptions(plots=False, **case.options)
    return plan_conversion(source.read(), case.descriptor, options)


def outcome_of(case: Case, source: Source, out: Path, *flags: str) -> Outcome:
    """Convert a set by the command."""
    words = [*source.words, *option_words(case.options), *flags]
    if case.descriptor is not None:
        params = out.with_name("params.npz")
        case.descriptor.save(params)
        words += ["--params", str(params)]
    return run_program("convert", *words, "-o", out, "--no-plots", "--quiet")


@of_kind(REJECTED)
def test_rejected(
    case: Rejected, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error says everything, with remedies, before an image is read; nothing is written."""
    monkeypatch.chdir(build.folder)
    source, out = case.make(build), tmp_path / "out"
    before = tree(tmp_path)

    def attempt() -> None:
        plan = plan_of(case, source)
        assert case.by_pixels, "found only by reading images"
        convert(plan, out)

    with pytest.raises(CryoLikeError) as caught:
        attempt()
    error, message = caught.value, str(caught.value)
    assert [part for part in (*case.says, case.remedy) if part not in message] == []
    assert type(error) is case.error
    assert len(error.problems) == case.n_problems
    assert [problem for problem in error.problems if not problem.remedy] == []
    assert tree(tmp_path) == before


@of_kind({kind: cases[::4] for kind, cases in REJECTED.items()})
def test_rejected_by_the_command(
    case: Rejected, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program says the same on standard error, and ends with the exit code that fits."""
    monkeypatch.chdir(build.folder)
    source, out = case.make(build), tmp_path / "out"
    before = tree(build.folder)
    outcome = outcome_of(case, source, out)
    assert outcome.code == case.exit_code
    assert [part for part in (*case.says, case.remedy) if part not in outcome.err] == []
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    assert tree(build.folder) == before
    assert not out.exists()


@pytest.fixture(scope="session")
def plain_images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], list[bytes]]:
    """Give the polar images of an undamaged set, which is converted once."""
    known: dict[Make, list[bytes]] = {}

    def convert_once(make: Make) -> list[bytes]:
        if make not in known:
            folder = tmp_path_factory.mktemp("plain")
            options = ConvertOptions(plots=False, pixel_size_A=2.0)
            source = make(SetBuilder(folder))
            convert(plan_conversion(source.read(), None, options), folder / "out")
            known[make] = polar_images(folder / "out")
        return known[make]

    return convert_once


def polar_images(out: Path) -> list[bytes]:
    """Content of all stacks of polar images, in order."""
    return [path.read_bytes() for path in sorted((out / "fft").glob("*.pt"))]


@of_kind(ACCEPTED)
def test_accepted(
    case: Accepted,
    build: SetBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain_images: Callable[[Make], list[bytes]],
) -> None:
    """The images are those of the undamaged set, and no more is said than is odd."""
    monkeypatch.chdir(build.folder)
    source, out = case.make(build), tmp_path / "out"
    report = convert(plan_of(case, source), out)
    assert report.n_images_out == report.n_rows_in == case.n_images
    assert_said(case.warns, report.warnings)
    assert_said(case.notes, [n.message for n in report.notices if n.level == "note"])
    if case.same_as is not None:
        assert polar_images(out) == plain_images(case.same_as)


@pytest.mark.parametrize(
    "make",
    [
        cryosparc_odd.given_passthrough,
        cryosparc_odd.found_passthrough,
        cryosparc_odd.whole_group,
    ],
)
def test_joined_fields_are_those_of_the_row(make: Make, build: SetBuilder, tmp_path: Path) -> None:
    """Rows in another order are joined by uids above 2⁶³, of which no bit is lost."""
    plain = SetBuilder(tmp_path / "plain")
    plain.folder.mkdir()
    expected, table = cryosparc_odd.plain(plain).read(), make(build).read()
    assert table.uid is not None
    assert table.uid.tolist() == [UID + i for i in range(5)]
    np.testing.assert_array_equal(table.defocus_u_A, expected.defocus_u_A)
    assert len(set(table.defocus_u_A)) == 5


@of_kind(
    {kind: [case for case in cases if case.warns or case.notes] for kind, cases in ACCEPTED.items()}
)
def test_oddities_are_told_by_the_program(
    case: Accepted, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings and notes go to standard error, each as what it is, and the set is good."""
    monkeypatch.chdir(build.folder)
    outcome = outcome_of(case, case.make(build), tmp_path / "out", "--dry-run")
    assert outcome.code == 0
    told = outcome.err.splitlines()
    for label, parts in (("warning: ", case.warns), ("note: ", case.notes)):
        lines = [line for line in told if line.startswith(label)]
        wanted = [part for part in parts if "Protein" not in part]  # found by reading images
        assert [part for part in wanted if not any(part in line for line in lines)] == []


def assert_said(parts: Sequence[str], messages: Sequence[str]) -> None:
    """Check that each part is in a message, and that other messages only say defaults."""
    assert [part for part in parts if not any(part in message for message in messages)] == []
    others = [message for message in messages if not any(part in message for part in parts)]
    assert [message for message in others if " is missing: " not in message] == []


def test_rejected_by_the_program_itself(build: SetBuilder, tmp_path: Path) -> None:
    """As users start it: its exit code, one error on standard error, and no traceback."""
    (case,) = (case for case in star_rows.REJECTED if case.id == "all-at-once")
    words = case.make(build).words
    before = tree(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "cryolike", "convert", *words, "-o", tmp_path / "out", "--quiet"],
        cwd=build.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == case.exit_code
    assert [part for part in (*case.says, case.remedy) if part not in result.stderr] == []
    assert result.stderr.startswith("error: 13 problems:\n")
    assert "Traceback" not in result.stderr
    assert tree(tmp_path) == before
