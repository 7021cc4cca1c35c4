"""Options that cannot be, and files of descriptors that are none."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.builders import SetBuilder
from tests.hostile.cases import tree
from tests.hostile.payload import Payload
from tests.hostile.star_sets import stars
from tests.program import run_program

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import UsageError
from cryolike.io.read import read_particles

BAD_DATA, BAD_USAGE = 1, 2


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Words after a good command, and what is said about them.

    Parameters
    ----------
    id
        What is wrong.
    words
        Of the command.
    says
        Parts of the message, what to do among them.
    params
        Writes the file ``params.npz``, which is given as the descriptor then.
    code
        Exit code.
    """

    id: str
    words: tuple[str, ...] = ()
    says: tuple[str, ...]
    params: Callable[[Path], object] | None = None
    code: int = BAD_USAGE


def pickled(path: Path) -> None:
    """Write a descriptor that would create a file where it is unpickled."""
    values = np.array([Payload(path.with_name("unpickled"))], dtype=object)
    with path.open("wb") as stream:
        np.savez(stream, n_pixels=values)


def bare_pickle(path: Path) -> None:
    """Write a pickle that would create a file where it is loaded."""
    path.write_bytes(pickle.dumps(Payload(path.with_name("unpickled"))))


def changed_descriptor(**values: object) -> Callable[[Path], None]:
    """Write a descriptor with other values; None leaves one out."""

    def write(path: Path) -> None:
        arrays = ImageDescriptor.from_individual_values(12, 2.0).to_arrays()
        changed = {key: np.asarray(value) for key, value in values.items() if value is not None}
        kept = {key: value for key, value in arrays.items() if values.get(key, value) is not None}
        with path.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **(kept | changed))

    return write


MISTAKES = [
    Mistake(id="rows-backwards", words=("--rows", "5:2"), says=("--rows 5:2", "START:STOP")),
    Mistake(id="rows-that-are-none", words=("--rows", "a:b"), says=("--rows a:b", "0:1000")),
    Mistake(id="rows-past-the-end", words=("--rows", "9:12"), says=("No row is left of the 5",)),
    Mistake(id="class-without-classes", words=("--class", "1"), says=("no class numbers",)),
    Mistake(id="too-many-at-random", words=("--random", "9"), says=("between 1 and the 5 rows",)),
    Mistake(
        id="batch-of-none",
        words=("--batch-size", "0"),
        says=("--batch-size", "greater than or equal to 1"),
    ),
    Mistake(id="pixel-size-negative", words=("--pixel-size", "-1"), says=("-1.0", "positive")),
    Mistake(id="pixel-size-nan", words=("--pixel-size", "nan"), says=("nan", "positive")),
    Mistake(id="factor-zero", words=("--downsample", "0"), says=("factor is 0", "at least 1")),
    Mistake(
        id="kind-of-downsampling",
        words=("--downsample-type", "median"),
        says=("'median'", "mean, max, fourier"),
    ),
    Mistake(id="policy", words=("--on-bad-row", "ignore"), says=("'ignore'", "error, skip")),
    Mistake(
        id="policy-of-images", words=("--on-bad-image", "zero"), says=("'zero'", "error, skip")
    ),
    Mistake(id="contrast", words=("--contrast", "auto"), says=("'auto'", "recorded, keep, invert")),
    Mistake(id="device-unknown", words=("--device", "abacus"), says=("'abacus'", "Use cpu, cuda")),
    Mistake(id="device-absent", words=("--device", "cuda:99"), says=("'cuda:99'", "no such GPU")),
    Mistake(
        id="descriptor-missing",
        words=("--params", "absent.npz"),
        code=BAD_DATA,
        says=("absent.npz: no such descriptor file", "cryolike describe"),
    ),
    Mistake(
        id="descriptor-that-is-the-star-file",
        words=("--params", "particles.star"),
        says=("particles.star is no image descriptor", "cryolike describe"),
    ),
    Mistake(
        id="descriptor-empty",
        params=Path.touch,
        says=("params.npz is no image descriptor", "cryolike describe"),
    ),
    Mistake(
        id="descriptor-of-pickled-objects",
        params=pickled,
        says=("params.npz is no image descriptor", "Python objects is never opened"),
    ),
    Mistake(
        id="descriptor-that-is-a-pickle",
        params=bare_pickle,
        says=("params.npz is no image descriptor", "Python objects is never opened"),
    ),
    Mistake(
        id="descriptor-cut",
        params=lambda path: (changed_descriptor()(path), path.write_bytes(path.read_bytes()[:99])),
        says=("params.npz is no image descriptor", "cryolike describe"),
    ),
    Mistake(
        id="descriptor-without-a-value",
        params=changed_descriptor(n_inplanes=None),
        says=("params.npz: not an image descriptor: no n_inplanes",),
    ),
    Mistake(
        id="descriptor-of-impossible-values",
        params=changed_descriptor(pixel_size=[-2.0, -2.0]),
        says=("params.npz", "-2.0", "positive number of Å"),
    ),
    Mistake(
        id="91-descriptor-beyond-nyquist",
        params=changed_descriptor(radius_max=6.0),
        says=("params.npz", "radius_max is 6.0, beyond Nyquist (3.0 for 12 pixels)"),
    ),
]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.id)
def test_mistakes_are_told(
    case: Mistake, build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad usage ends with its own exit code, and nothing is written."""
    monkeypatch.chdir(build.folder)
    source, words = stars(build), case.words
    if case.params is not None:
        case.params(build.folder / "params.npz")
        words = ("--params", "params.npz")
    before = tree(tmp_path)
    outcome = run_program("convert", *source.words, "-o", tmp_path / "out", "-q", *words)
    assert outcome.code == case.code
    assert [part for part in case.says if part not in outcome.err] == []
    assert tree(tmp_path) == before


def test_payload_does_what_it_says(tmp_path: Path) -> None:
    """Unpickling creates the file that tests look for."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "unpickled")))
    assert (tmp_path / "unpickled").exists()


def test_passthrough_is_for_cryosparc(build: SetBuilder) -> None:
    """A STAR file has none."""
    path = Path(stars(build).words[1])
    with pytest.raises(UsageError, match="--passthrough is for cryoSPARC"):
        read_particles(path, passthrough=[path])
