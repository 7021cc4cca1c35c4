"""The demonstration: everything it promises, on a set small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from cryolike.demo import DemoResult, power_by_ctf, run_demo
from cryolike.errors import OutputExistsError
from cryolike.store import StackSet, open_stacks

Calls = list[tuple[str, int, int]]
N_IMAGES, N_PIXELS, N_SCORED = 100, 64, 40


class Recorder:
    """Progress bars that remember what they were told."""

    def __init__(self) -> None:
        self.calls: Calls = []

    @contextmanager
    def __call__(self, title: str, **_: object) -> Iterator[Callable[[int, int], None]]:
        """Make one."""
        yield lambda done, total: self.calls.append((title, done, total))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Calls]:
    """Run it once; what it returned and what its progress bars heard."""
    recorder = Recorder()
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    result = run_demo(folder, recorder, n_images=N_IMAGES, n_pixels=N_PIXELS, n_scored=N_SCORED)
    return result, recorder.calls


@pytest.fixture(scope="module")
def stacks(demo: tuple[DemoResult, Calls]) -> StackSet:
    """Open the converted set."""
    return open_stacks(demo[0].conversion.folder)


def test_files_are_where_it_says(demo: tuple[DemoResult, Calls]) -> None:
    """The simulated set, the converted one, its plots and the picture exist."""
    result, _ = demo
    folder = result.star_file.parents[1]
    assert result.star_file == folder / "relion" / "particles.star"
    assert result.star_file.is_file()
    assert len(list((folder / "relion" / "Particles").glob("*.mrcs"))) == 3
    assert (folder / "converted" / "manifest.json").is_file()
    assert len(list((folder / "converted" / "plots").glob("*.png"))) == 3
    assert result.picture == folder / "demo.png"


def test_picture_is_not_empty(demo: tuple[DemoResult, Calls]) -> None:
    """The picture can be read and shows more than one colour in each of its five panels."""
    pixels = matplotlib.image.imread(demo[0].picture)
    assert pixels.shape[1] > 800
    above, below = np.array_split(pixels, 2)
    panels = [*np.array_split(above, 3, axis=1), *np.array_split(below, 3, axis=1)]
    for panel in panels:
        assert len(np.unique(panel.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_right_structure_wins(demo: tuple[DemoResult, Calls]) -> None:
    """The structure that was simulated is more likely for almost all images, by far together."""
    scores = demo[0].scores
    assert scores.structures == ("true", "turned")
    assert scores.n_images == N_SCORED
    assert scores.n_best[0] >= 0.9 * N_SCORED
    assert np.ptp(scores.log_likelihood) > 100
    assert (scores.folder / "results.csv").read_text().count("\n") == 1 + 2 * N_SCORED


def test_reports_tell_of_the_whole_set(demo: tuple[DemoResult, Calls]) -> None:
    """Inspected, converted and verified: 100 rows, two optics groups, nothing wrong."""
    result, _ = demo
    assert (result.summary.n_rows, result.summary.n_files_found) == (N_IMAGES, 3)
    assert [group.voltage_kV for group in result.summary.optics] == [300, 200]
    assert result.summary.boxes_px == {N_PIXELS: N_IMAGES}
    assert result.summary.has_poses
    assert result.summary.problems == ()
    assert (result.conversion.n_rows_in, result.conversion.n_images_out) == (N_IMAGES, N_IMAGES)
    assert result.conversion.rejects == ()
    assert result.verification.is_good
    assert (result.verification.n_images, result.verification.n_recomputed) == (N_IMAGES, 64)


def test_progress_of_each_step_reaches_its_end(demo: tuple[DemoResult, Calls]) -> None:
    """Each step counts up to all there is to do."""
    _, calls = demo
    last = {title: (done, total) for title, done, total in calls}
    assert list(last)[:3] == ["simulating", "converting", "verifying"]
    assert last["simulating"] == last["converting"] == (N_IMAGES, N_IMAGES)
    assert last["verifying"][0] == last["verifying"][1] > 0
    assert last["scoring true (1/2)"] == (N_SCORED, 2 * N_SCORED)
    assert last["scoring turned (2/2)"] == (2 * N_SCORED, 2 * N_SCORED)
    done, total = last["templates of turned (2/2)"]
    assert done == total > 100


def test_images_follow_their_ctf_only_with_the_right_axes(stacks: StackSet) -> None:
    """Power rises steeply with the CTF² of the metadata; with x and y exchanged, less so."""
    edges = np.linspace(0, 1, 11)
    rise, swapped_rise = (
        np.diff(power_by_ctf(stacks, edges, swapped=swapped)[[0, -1]])[0]
        for swapped in (False, True)
    )
    assert rise > 0.6
    assert swapped_rise < 0.5


@pytest.mark.parametrize("n_images", [3, 4])
def test_smallest_set(n_images: int, tmp_path: Path) -> None:
    """One image a stack is enough, and is drawn as any other."""
    result = run_demo(tmp_path, Recorder(), n_images=n_images, n_pixels=16)
    assert result.verification.is_good
    assert result.picture.is_file()


def test_earlier_demonstration_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """A second run is refused and changes nothing; with overwrite it starts afresh."""
    run_demo(tmp_path, Recorder(), n_images=3, n_pixels=16)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(OutputExistsError, match="not empty"):
        run_demo(tmp_path, Recorder(), n_images=4, n_pixels=16)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    result = run_demo(tmp_path, Recorder(), n_images=4, n_pixels=16, overwrite=True)
    assert result.summary.n_rows == 4


@pytest.mark.parametrize("name", ["notes.txt", "relion/job.star", "converted/mine.pt"])
def test_foreign_files_are_never_deleted(name: str, tmp_path: Path) -> None:
    """Overwriting stops where a folder holds anything that no demonstration made."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="another folder"):
        run_demo(tmp_path, Recorder(), n_images=3, n_pixels=16, overwrite=True)
    assert path.read_text(encoding="utf-8") == "mine"
