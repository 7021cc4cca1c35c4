"""Compilation where there is no place to keep compiled code."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest

from cryolike.physics import compiled
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

            run._cache = SimpleNamespace(_cache_file=SimpleNamespace(_source_stamp=None))  # type: ignore[attr-defined]
            return run

        return compile_it

    monkeypatch.setattr(numba, "njit", without_room)
    double = _compiled(lambda number: 2 * number)
    assert [double(1), double(2)] == [2, 4]


def test_kept_code_is_outdated_where_any_source_of_compiled_code_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Functions of one file are compiled into those of another; numba sees only its own."""
    file = tmp_path / "doubling.py"
    file.write_text("def double(number):\n    return 2 * number\n")
    dispatchers: list[Any] = []
    njit = numba.njit

    def remembering(**options: Any) -> Callable[..., Any]:
        def compile_it(function: Callable[..., Any]) -> Any:
            dispatchers.append(njit(**options)(function))
            return dispatchers[-1]

        return compile_it

    monkeypatch.setattr(numba, "njit", remembering)
    found = []
    for digest in ("a", "a", "b"):
        monkeypatch.setattr(compiled, "_digest_of_sources", lambda digest=digest: digest)
        spec = importlib.util.spec_from_file_location("doubling", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert _compiled(module.double)(3) == 6
        found.append(sum(dispatchers[-1].stats.cache_hits.values()))
    assert found == [0, 1, 0]
