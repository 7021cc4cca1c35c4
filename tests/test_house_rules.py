"""Rules that hold for all of the package's source: import order, no print, names."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cryolike

SOURCE = Path(__file__).resolve().parents[1] / "src" / "cryolike"

LAYERS = (
    "errors",
    "units",
    "threads",
    "grids",
    "descriptor",
    "particles",
    "physics",
    "io",
    "simulate",
    "store",
    "plot",
    "conversion",
    "dataset",
    "progress",
    "templates",
    "scoring",
    "wrappers",
    "demo",
    "cli",
    "testing",
)
"""A module imports from its own layer and from those before it."""

PUBLISHED = {
    "ImageDescriptor",
    "configure_displacement",
    "configure_likelihood_files",
    "convert_particle_stacks_from_cryosparc_job_directory",
    "convert_particle_stacks_from_indexed_cryosparc_file",
    "convert_particle_stacks_from_indexed_star_file",
    "convert_particle_stacks_from_paired_star_and_mrc_files",
    "make_templates_from_inputs",
    "open_stacks",
    "run_likelihood_full_cross_correlation",
    "run_likelihood_optimal_pose",
    "stitch_log_likelihood_matrices",
}

Rule = Callable[[ast.AST], str | None]


def offences(tree: ast.AST, rule: Rule) -> Iterator[str]:
    """Yield 'line: what is wrong' of each node that breaks the rule."""
    for node in ast.walk(tree):
        if (offence := rule(node)) is not None:
            yield f"{getattr(node, 'lineno', 0)}: {offence}"


def offences_in_source(rule: Rule) -> list[str]:
    """List what breaks the rule anywhere in the package."""
    return [
        f"{path.relative_to(SOURCE)}:{offence}"
        for path in sorted(SOURCE.rglob("*.py"))
        for offence in offences(ast.parse(path.read_text(encoding="utf-8")), rule)
    ]


def imported_modules(node: ast.AST, package: str) -> list[str]:
    """List the modules that an import statement names, in full."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    # `from package import x`: x may be a module
    return [f"{module}.{alias.name}" for alias in node.names]


def wrong_direction(node: ast.AST, package: str, layer: str) -> str | None:
    """Find an import of a module that is in a later layer, or in none."""
    for module in imported_modules(node, package):
        root, _, rest = module.partition(".")
        if root != "cryolike":
            continue
        target = rest.partition(".")[0]
        if target not in LAYERS:
            return f"imports {module}, which is in no layer"
        if LAYERS.index(target) > LAYERS.index(layer):
            return f"{layer} imports {module} of a later layer"
    return None


def prints(node: ast.AST) -> str | None:
    """Find a use of print."""
    return "print" if isinstance(node, ast.Name) and node.id == "print" else None


def test_imports_go_one_way() -> None:
    """No module imports one of a later layer, and every module is in a layer."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] in {"__init__", "__main__"}:
            continue
        assert parts[0] in LAYERS, f"{path}: name its layer in LAYERS"
        package = ".".join(("cryolike", *parts[:-1]))

        def rule(node: ast.AST, package: str = package, layer: str = parts[0]) -> str | None:
            return wrong_direction(node, package, layer)

        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{'/'.join(parts)}.py:{offence}" for offence in offences(tree, rule)]
    assert found == []


@pytest.mark.parametrize(
    "statement",
    [
        "import cryolike.conversion.run",
        "from cryolike import cli",
        "from cryolike.store.reader import open_stacks",
        "from ..store import reader",
        "from cryolike import open_stacks",
    ],
)
def test_backward_imports_are_recognised(statement: str) -> None:
    """An import of a later layer is found, however it is written."""
    node = ast.parse(statement).body[0]
    assert wrong_direction(node, "cryolike.physics", "physics") is not None


@pytest.mark.parametrize(
    "statement",
    ["from cryolike import errors", "from .ctf import CtfParameters", "import numpy as np"],
)
def test_forward_imports_are_allowed(statement: str) -> None:
    """Imports of the same layer, earlier layers and other packages are no offence."""
    node = ast.parse(statement).body[0]
    assert wrong_direction(node, "cryolike.physics", "physics") is None


def test_nothing_prints() -> None:
    """The library logs and the command line has a console; neither calls print."""
    assert offences_in_source(prints) == []


def public_names(module: ModuleType) -> set[str]:
    """Names a module defines or imports for others, its submodules aside."""

    def is_public(name: str, value: Any) -> bool:
        hidden = name.startswith("_") or isinstance(value, ModuleType)
        return not hidden and type(value).__module__ != "__future__"

    return {name for name, value in vars(module).items() if is_public(name, value)}


def test_all_lists_the_public_names() -> None:
    """`__all__` has the published names, all public names, and nothing that does not exist."""
    listed = set(cryolike.__all__)
    assert listed >= PUBLISHED
    assert public_names(cryolike) <= listed
    assert [name for name in cryolike.__all__ if not hasattr(cryolike, name)] == []
    assert len(listed) == len(cryolike.__all__)


def test_star_import_brings_the_published_names() -> None:
    """`from cryolike import *` brings every published name."""
    namespace: dict[str, object] = {}
    exec("from cryolike import *", namespace)
    assert namespace.keys() >= PUBLISHED
