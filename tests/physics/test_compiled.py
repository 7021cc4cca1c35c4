"""Compilation where there is no place to keep compiled code."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from cryolike.physics.compiled import _compiled


def test_functions_compile_where_nothing_can_be_kept() -> None:
    """Code that has no file, and so no folder for what is compiled from it, still runs."""
    scope: dict[str, Any] = {}
    exec("def add(a, b):\n    return a + b", scope)
    assert _compiled(scope["add"])(np.float32(1), np.float32(2)) == 3


def test_functions_compile_where_there_is_no_room_to_keep_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full home folder does not stop a conversion elsewhere."""

    def without_room(*, cache: bool = False, **_options: Any) -> Callable[..., Any]:
        def compile_it(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                if cache:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return function(*arguments)

            return run

        return compile_it

    monkeypatch.setattr(numba, "njit", without_room)
    double = _compiled(lambda number: 2 * number)
    assert [double(1), double(2)] == [2, 4]
