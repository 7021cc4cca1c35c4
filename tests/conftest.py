"""What all tests share: run-time type checks, sample sets, settings of libraries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from tests.builders import SetBuilder

# Before anything imports cryolike: every annotation, array shapes included, is checked in calls.
# As in mypy, an int will do for a float. `Self` has no meaning to beartype in single methods.
install_import_hook(
    "cryolike",
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, hint_overrides="
    "beartype.FrozenDict({beartype.typing.Self: object})))",
)

mpl.use("Agg")
os.environ["MPLBACKEND"] = "Agg"  # for programs that tests start
torch.set_num_threads(min(2, os.cpu_count() or 1))

# The first call of a function is slow (plans, lazy imports), so time is no criterion.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

_SAMPLE_SETS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of sample sets that other programs wrote, if there is one.

    It is named by CRYOLIKE_TEST_DATA, or lies beside the checkout.
    """
    named = os.environ.get("CRYOLIKE_TEST_DATA")
    folder = Path(named) if named else _SAMPLE_SETS
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"CRYOLIKE_TEST_DATA is {named}, which is no folder")
    pytest.skip("no folder of sample sets: name one with CRYOLIKE_TEST_DATA")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need RELION where it is not installed."""
    if item.get_closest_marker("relion") and shutil.which("relion_project") is None:
        pytest.skip("needs RELION's programs (Debian package relion)")


@pytest.fixture
def build(tmp_path: Path) -> SetBuilder:
    """Make a builder that writes in an empty folder `project`, beside which results can go."""
    folder = tmp_path / "project"
    folder.mkdir()
    return SetBuilder(folder)
