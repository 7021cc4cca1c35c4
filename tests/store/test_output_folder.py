"""An output folder that cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryolike import convert, plan_conversion, read_star
from cryolike.errors import OutputExistsError
from cryolike.simulate import write_relion_set


def test_a_file_is_no_output_folder(tmp_path: Path) -> None:
    """A file in the place of the output folder is refused and stays as it is."""
    star_file = write_relion_set(tmp_path / "set", n_images=6, n_pixels=16, n_stacks=2)
    target = tmp_path / "out"
    target.write_text("mine")
    with pytest.raises(OutputExistsError, match="is a file, not a folder"):
        convert(plan_conversion(read_star(star_file)), target)
    assert target.read_text() == "mine"
