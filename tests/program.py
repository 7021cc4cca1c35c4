"""The program ``cryolike``, run in this process."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from typer.main import get_command

from cryolike.cli.main import app

__all__ = ["Outcome", "run_program"]

_program = get_command(app)  # a runner makes it anew for each command, which takes as long as those


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def run_program(*arguments: object) -> Outcome:
    """Run the program with a wide terminal; what it does not expect is raised."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch.dict(os.environ, COLUMNS="200", NO_COLOR="1"),
    ):
        try:
            _program.main([str(argument) for argument in arguments], prog_name="cryolike")
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    texts = (re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue()) for text in (out, err))
    return Outcome(code, *texts)
