"""A small set and what an undisturbed run makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.runs import BATCH_SIZE, N_STACKS, convert_set, files_below

from cryolike.simulate import write_relion_set


@pytest.fixture(scope="session")
def star_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three stacks of 16×16 pixels, which make six polar stacks, the last one shorter."""
    folder = tmp_path_factory.mktemp("set")
    return write_relion_set(folder, n_images=N_STACKS * BATCH_SIZE - 1, n_pixels=16, n_stacks=3)


@pytest.fixture(scope="session")
def wanted(star_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """Give all files of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    convert_set(star_file, out)
    return files_below(out)
