"""Compilation where there is no place to keep compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryolike.physics.compiled import _compiled


def test_functions_compile_where_nothing_can_be_kept() -> None:
    """Code that has no file, and so no folder for what is compiled from it, still runs."""
    scope: dict[str, Any] = {}
    exec("def add(a, b):\n    return a + b", scope)
    assert _compiled(scope["add"])(np.float32(1), np.float32(2)) == 3
