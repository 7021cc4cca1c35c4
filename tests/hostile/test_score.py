"""What `cryolike score` refuses, before any work, and what it does with odd input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.builders import SetBuilder
from tests.hostile.cases import tree
from tests.hostile.score_cases import (
    ACCEPTED,
    COARSE,
    REJECTED,
    OddScore,
    RejectedScore,
    plain_map,
    star_file,
)
from tests.program import Outcome, run_program

from cryolike.store.tiles import TileFolder


def score(words: Sequence[object], out: Path, *further: object) -> Outcome:
    """Run the command."""
    return run_program("score", words[0], *COARSE, *words[1:], "-o", out, *further)


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: case.id)
def test_rejected(
    case: RejectedScore, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error says everything before any work begins, in a dry run too; nothing is written."""

    def begin(_: TileFolder) -> None:
        pytest.fail("work has begun")

    monkeypatch.setattr(TileFolder, "__enter__", begin)
    monkeypatch.chdir(build.folder)
    words, out = case.make(build), tmp_path / "out"
    before = tree(tmp_path)
    outcome, dry = score(words, out, "-q"), score(words, out, "--dry-run", "--json")
    assert [part for part in case.says if part not in outcome.err] == []
    assert outcome.code == dry.code == case.code
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    head = f"error: {case.n_problems} problems:"
    assert (head in outcome.err) == (case.n_problems > 1)
    assert f"{case.n_problems + 1} problems" not in outcome.err
    assert outcome.err.partition("error: ")[2] == dry.err.partition("error: ")[2]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.id)
def test_accepted(
    case: OddScore, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is scored, and no more is said than is odd; JSON has the same warnings."""
    monkeypatch.chdir(build.folder)
    words, out = case.make(build), tmp_path / "out"
    outcome = score(words, out, "--json")
    assert outcome.code == 0, outcome.err
    warnings = json.loads(outcome.out)["warnings"]
    assert len(warnings) == len(case.warns), warnings
    for part, told in zip(case.warns, warnings, strict=True):
        assert part in told
        assert told in outcome.err
    assert np.isfinite(np.load(out / "log_likelihood_integrated.npy")).all()


def test_blank_image(build: SetBuilder, tmp_path: Path) -> None:
    """Only reading it can tell: it is named, with what to do, and that leaves it out."""
    images = build.noise(5)
    images[3] = 2.0
    words = [star_file(build, images=images), "-s", plain_map(build)]
    outcome = score(words, tmp_path / "out", "-q")
    assert outcome.code == 1
    assert "row 3: " in outcome.err
    assert "--on-bad-image skip" in outcome.err
    assert not (tmp_path / "out" / "results.csv").exists()
    outcome = score(words, tmp_path / "out", "-q", "--resume", "--on-bad-image", "skip")
    assert outcome.code == 0, outcome.err
    assert len(np.load(tmp_path / "out" / "log_likelihood_integrated.npy")) == 4


OUTPUTS = {
    "file": ("file/out", "file is a file, not a folder"),
    "file-itself": ("file", "is a file, not a folder"),
    "converted": ("converted", "holds a converted set"),
    "scored": ("scored", "already holds a finished run of scoring"),
    "results-of-others": ("others", "results.csv would be replaced"),
    "pictures-of-others": ("pictures", "gallery.png would be replaced"),
    "source": ("source", "is a source file"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_output_in_the_way(case: str, build: SetBuilder, tmp_path: Path) -> None:
    """It is refused before any work, in a dry run too, and stays as it is."""
    words: list[object] = [star_file(build), "-s", plain_map(build)]
    (tmp_path / "file").write_text("mine")
    for name in (
        "others/results.csv",
        "pictures/plots/gallery.png",
        "source/particles_scored.star",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    if case == "converted":
        assert run_program("convert", "star", words[0], "-o", tmp_path / case, "-q").code == 0
    if case == "scored":
        assert score(words, tmp_path / case, "-q").code == 0
    if case == "source":
        source = build.folder / "particles.star"
        (tmp_path / "source" / "particles_scored.star").write_text(source.read_text())
        words = [tmp_path / "source" / "particles_scored.star", *words[1:]]
        words += ["--folder", build.folder / "Particles"]
    name, says = OUTPUTS[case]
    before = tree(tmp_path)
    for further in (["-q"], ["--dry-run"]):
        outcome = score(words, tmp_path / name, "--plots", *further)
        assert outcome.code == 1, outcome.err
        assert says in outcome.err
    assert tree(tmp_path) == before
