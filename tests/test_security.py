"""Files are data: none is ever run, none expands beyond its promise, and nothing is left about."""

from __future__ import annotations

import ast
import bz2
import gzip
import os
import pickle
import pickletools
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from tests.program import run_program

from cryolike import (
    ConvertOptions,
    ImageDescriptor,
    convert,
    open_stacks,
    plan_conversion,
    read_star,
    verify,
)
from cryolike.errors import IncompleteOutputError, OutputError, StackError
from cryolike.simulate import write_relion_set
from cryolike.store.manifest import FileRecord, Manifest, checksum_of_file
from cryolike.store.writer import write_arrays

SOURCE = Path(__file__).resolve().parents[1] / "src" / "cryolike"

# The source

FORBIDDEN_MODULES = {
    *("_pickle", "cPickle", "cloudpickle", "dill", "hickle", "joblib", "jsonpickle", "marshal"),
    *("pickle", "shelve", "code", "codeop", "pty", "runpy", "socketserver", "subprocess"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile"),
    *("tempfile.mktemp", "os.tempnam", "os.tmpnam", "torch.jit.load", "torch.package"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.full_load_all"),
}
FORBIDDEN_ENDINGS = {"read_pickle", "to_pickle", "extractall", "read_hdf"}
REQUIRED_KEYWORDS = {
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
    "numpy.lib.format.write_array": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
SAFE_LOADERS = {"yaml.CSafeLoader", "yaml.SafeLoader"}


def origins(tree: ast.AST) -> dict[str, str]:
    """Tell what each imported name stands for: `np` for numpy, `load` for numpy.load."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.partition(".")[0]: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def full_name(expression: ast.expr, names: dict[str, str]) -> str:
    """Name of what is called, from its module on."""
    first, dot, rest = ast.unparse(expression).partition(".")
    return names.get(first, first) + dot + rest


def unsafe_import(node: ast.AST) -> str | None:
    """Find an import of a module that runs what it is given."""
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        modules = [node.module or ""]
    else:
        return None
    found = {module.partition(".")[0] for module in modules} & FORBIDDEN_MODULES
    return f"imports {found.pop()}" if found else None


def unsafe_call(node: ast.AST, names: dict[str, str]) -> str | None:
    """Find a call that could run what a file or a string holds, or that is open to others."""
    if not isinstance(node, ast.Call):
        return None
    name = full_name(node.func, names)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    is_process = name.startswith(("os.exec", "os.spawn", "os.posix_spawn", "torch.hub."))
    if name in FORBIDDEN_CALLS or is_process or name.rpartition(".")[2] in FORBIDDEN_ENDINGS:
        return f"calls {name}"
    if name == "yaml.load":
        loaders = [*node.args[1:2], *(v for k, v in keywords.items() if k == "Loader")]
        is_safe = bool(loaders) and full_name(loaders[0], names) in SAFE_LOADERS
        return None if is_safe else "calls yaml.load without a safe loader"
    if "shell" in keywords and ast.unparse(keywords["shell"]) != "False":
        return f"calls {name} with shell"
    keyword, wanted = REQUIRED_KEYWORDS.get(name, ("", None))
    if keyword and (keyword not in keywords or ast.unparse(keywords[keyword]) != str(wanted)):
        return f"calls {name} without {keyword}={wanted}"
    return None


def offences(code: str) -> list[str]:
    """List 'line: what is unsafe' of Python code."""
    tree = ast.parse(code)
    names = origins(tree)
    found = ((node, unsafe_import(node) or unsafe_call(node, names)) for node in ast.walk(tree))
    return [f"{getattr(node, 'lineno', 0)}: {offence}" for node, offence in found if offence]


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: f.stem)
def test_source_is_safe(file: Path) -> None:
    """Nothing in the package unpickles, evaluates, starts programs, or guesses file names."""
    assert offences(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import numpy, marshal as m",
        "from joblib import load",
        "import subprocess",
        "eval(text)",
        "exec(text)",
        "compile(text, 'a', 'exec')",
        "__import__(name)",
        "import os\nos.system(line)",
        "from os import system\nsystem(line)",
        "import os\nos.execvp(a, b)",
        "run(line, shell=True)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=allowed)",
        "from numpy import load\nload(path)",
        "import numpy as np\nnp.lib.format.read_array(file)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "import torch\ntorch.hub.load(a, b)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, yaml.FullLoader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "import pandas as pd\npd.read_pickle(path)",
        "import tempfile\nname = tempfile.mktemp()",
        "archive.extractall(folder)",
    ],
)
def test_unsafe_code_is_recognised(code: str) -> None:
    """Each way to run what a file holds is found, by whatever name it is imported."""
    assert len(offences(code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import torch\ntorch.load(path, weights_only=True, mmap=True)",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.CSafeLoader)",
        "import re\nre.compile(text)",
        "model.eval()",
        "from . import pickle",
        "import tempfile\ntempfile.TemporaryFile()",
    ],
)
def test_safe_code_is_allowed(code: str) -> None:
    """The safe ways, and what only has such a name, are no offence."""
    assert offences(code) == []


# Files that hold programs


@pytest.fixture(scope="module")
def converted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert a small set in two stacks; the set is beside it."""
    folder = tmp_path_factory.mktemp("converted")
    star_file = write_relion_set(folder / "set", n_images=8, n_pixels=16, n_stacks=2)
    options = ConvertOptions(batch_size=5, plots=False)
    convert(plan_conversion(read_star(star_file), None, options), folder / "out")
    return folder / "out"


@pytest.fixture
def converted(converted_once: Path, tmp_path: Path) -> Path:
    """Copy it."""
    return Path(shutil.copytree(converted_once, tmp_path / "out"))


@dataclass(frozen=True)
class Trap:
    """An object that makes a file when it is unpickled."""

    file: Path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))

    @property
    def yaml(self) -> str:
        """The same for YAML's loaders that make any object."""
        return f"!!python/object/apply:os.mkdir ['{self.file}']"


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """Set a trap, which works, and see at the end that nobody stepped into it."""
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))
    assert trap.file.exists()
    trap.file.unlink()
    yield trap
    assert not trap.file.exists()


def write_object_array(file: Path, trap: Trap) -> None:
    """Write a .cs file whose rows hold objects."""
    with file.open("wb") as stream:
        np.save(stream, np.array([(1, trap)], dtype=[("uid", "u8"), ("blob/path", "O")]))


def write_pickle(file: Path, trap: Trap) -> None:
    """Write nothing but a pickle."""
    file.write_bytes(pickle.dumps(trap))


def write_tensor_file(file: Path, trap: Trap) -> None:
    """Write a pickle as PyTorch wraps it."""
    torch.save(trap, file)


def write_yaml(file: Path, trap: Trap) -> None:
    """Write a result group with an object where a file name should be."""
    file.write_text(f"results:\n  particles.blob:\n    metafile: {trap.yaml}\n")


@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize("name", ["a.cs", "a.csg", "a.star", "a.mrcs"])
@pytest.mark.parametrize("write", [write_object_array, write_pickle, write_tensor_file, write_yaml])
def test_metadata_with_a_program_in_it(
    tmp_path: Path, trap: Trap, name: str, command: str, write: Callable[[Path, Trap], None]
) -> None:
    """Whatever it is called, it is refused in words and not run."""
    file = tmp_path / name
    write(file, trap)
    arguments: list[object] = ["inspect", file]
    if command == "convert" and name.startswith("a.cs"):
        arguments = ["convert", "cryosparc", file, "-o", tmp_path / "o"]
    elif command == "convert":
        star_file = file
        if name == "a.mrcs":
            star_file = write_relion_set(tmp_path / "set", n_images=2, n_pixels=16, n_stacks=1)
            file.replace(next(star_file.parent.rglob("*.mrcs")))
        arguments = ["convert", "star", star_file, "-o", tmp_path / "o"]
    outcome = run_program(*arguments)
    assert outcome.code in (1, 2)
    assert "allow_pickle" not in outcome.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("write", [write_object_array, write_pickle, write_tensor_file])
def test_descriptor_that_is_a_program(
    converted: Path, tmp_path: Path, trap: Trap, write: Callable[[Path, Trap], None]
) -> None:
    """It is no descriptor."""
    file = tmp_path / "params.npz"
    write(file, trap)
    star_file = open_stacks(converted).manifest.header.inputs[0].path
    outcome = run_program(
        "convert", "star", star_file, "-o", tmp_path / "o", "--params", file, "--quiet"
    )
    assert outcome.code in (1, 2)
    assert str(file) in outcome.err
    assert not (tmp_path / "o").exists()


def test_descriptor_with_objects_among_its_values(tmp_path: Path, trap: Trap) -> None:
    """One value is an object; the others are right."""
    arrays = ImageDescriptor.from_individual_values(16, 2.0).to_arrays()
    with (tmp_path / "params.npz").open("wb") as file:
        arrays["atom_selection"] = np.array([trap], dtype=object)
        np.savez(file, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Python objects"):
        ImageDescriptor.load(tmp_path / "params.npz")


def record_anew(out: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as somebody who means harm would."""
    manifest = Manifest.load(out / "manifest.json")
    file = out / name
    new = FileRecord(name=name, n_bytes=file.stat().st_size, xxh3_128=checksum_of_file(file))
    stacks = tuple(
        replace(stack, files=tuple(new if old.name == name else old for old in stack.files))
        for stack in manifest.stacks
    )
    (out / "manifest.json").write_text(replace(manifest, stacks=stacks).to_json())


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("write", [write_pickle, write_tensor_file])
def test_stack_that_is_a_program(
    converted: Path, trap: Trap, write: Callable[[Path, Trap], None], is_recorded: bool
) -> None:
    """Neither opening nor verifying runs it, even where the manifest says it is ours."""
    name = "fft/particles_fourier_stack_000000.pt"
    write(converted / name, trap)
    if is_recorded:
        record_anew(converted, name)
    with pytest.raises(IncompleteOutputError, match="cannot be opened") as caught:
        open_stacks(converted).images(0)
    assert "weights_only" not in str(caught.value)
    faults = verify(converted).faults
    assert len(faults) == 1
    assert name in faults[0]


@pytest.mark.parametrize("is_recorded", [False, True])
def test_stack_metadata_with_objects(converted: Path, trap: Trap, is_recorded: bool) -> None:
    """The same of the other file of a stack."""
    name = "fft/particles_fourier_stack_000000.npz"
    with (converted / name).open("wb") as file:
        np.savez(file, files=np.array([trap], dtype=object))
    if is_recorded:
        record_anew(converted, name)
    with pytest.raises(IncompleteOutputError, match="cannot be opened"):
        _ = open_stacks(converted).table
    assert [name in fault for fault in verify(converted).faults] == [True]


def test_our_tensor_files_hold_a_tensor_and_nothing_else(converted: Path) -> None:
    """All that their pickle names is what a plain tensor is made of."""
    for file in converted.rglob("*.pt"):
        assert isinstance(torch.load(file, weights_only=True), torch.Tensor)
        with zipfile.ZipFile(file) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith("data.pkl"))
            program = archive.read(name)
        named = {
            argument for code, argument, _ in pickletools.genops(program) if code.name == "GLOBAL"
        }
        assert not {"REDUCE_EX", "INST", "OBJ", "STACK_GLOBAL"} & {
            code.name for code, _, _ in pickletools.genops(program)
        }
        assert named == {
            "torch._utils _rebuild_tensor_v2",
            "torch ComplexFloatStorage",
            "collections OrderedDict",
        }


# Files that expand

ZEROS = 100_000_000


def gzip_bomb(content: bytes) -> bytes:
    """Ten gigabytes of zeros behind the content, as ten megabytes."""
    return gzip.compress(content) + 100 * gzip.compress(bytes(ZEROS), 1)


def bz2_bomb(content: bytes) -> bytes:
    """Ten gigabytes of zeros behind the content, as ten kilobytes."""
    return bz2.compress(content) + 100 * bz2.compress(bytes(ZEROS), 1)


def n_bytes_written() -> int:
    """Bytes that this process has written to any file so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


@pytest.mark.parametrize("make", [gzip_bomb, bz2_bomb])
def test_small_promise_is_all_that_is_expanded(
    tmp_path: Path, make: Callable[[bytes], bytes]
) -> None:
    """A header that promises two images gets room for two, whatever follows, and an error."""
    star_file = write_relion_set(tmp_path / "set", n_images=2, n_pixels=16, n_stacks=1)
    stack = next(star_file.parent.rglob("*.mrcs"))
    stack.write_bytes(make(stack.read_bytes()))
    plan = plan_conversion(read_star(star_file), None, ConvertOptions(plots=False))
    before, started = n_bytes_written(), time.process_time()
    with pytest.raises(StackError, match="expands beyond the 3,072 bytes"):
        convert(plan, tmp_path / "out")
    assert n_bytes_written() - before < 100_000
    # To expand all of it takes ten times as long at least
    assert time.process_time() - started < 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_large_promise_is_not_believed(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """A header that promises more than can be is refused before anything is expanded."""
    star_file = write_relion_set(tmp_path / "set", n_images=2, n_pixels=16, n_stacks=1)
    stack = next(star_file.parent.rglob("*.mrcs"))
    with mrcfile.open(stack, "r+") as file:
        file.header.nz = file.header.mz = 2_000_000_000
    stack.write_bytes(compress(stack.read_bytes()))
    before = n_bytes_written()
    with pytest.raises((StackError, OutputError), match="2,048,000,001,024 bytes"):
        convert(plan_conversion(read_star(star_file)), tmp_path / "out")
    assert n_bytes_written() - before < 100_000
    assert not (tmp_path / "out").exists()


def test_compressed_metadata_of_a_stack_is_refused(converted: Path) -> None:
    """Ours are not compressed, so that none is larger in memory than on the disk."""
    file = converted / "fft/particles_fourier_stack_000000.npz"
    with np.load(file, allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    np.savez_compressed(file, **arrays)
    with pytest.raises(IncompleteOutputError, match="is compressed"):
        open_stacks(converted).metadata(0)
    with file.open("wb") as stream:
        write_arrays(stream, arrays)
    assert open_stacks(converted).metadata(0).keys() == arrays.keys()


# Temporary files


def temporary_files() -> dict[Path, os.stat_result]:
    """Files of this process that have no name any more, or never had one, by where they are."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()).endswith(" (deleted)"):
                found[link.readlink()] = link.stat()
        except FileNotFoundError:  # the one by which the folder itself is read
            continue
    return found


def test_temporary_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no name, nobody else may read them, and they lie among the results."""
    star_file = write_relion_set(tmp_path / "set", n_images=24, n_pixels=16, n_stacks=2)
    for stack in star_file.parent.rglob("*.mrcs"):
        stack.write_bytes(gzip.compress(stack.read_bytes()))
    system = tmp_path / "tmp"
    system.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))
    untouched = system.stat().st_mtime_ns
    seen: dict[Path, os.stat_result] = {}
    names: set[str] = set()
    before = temporary_files()

    def look(_done: int, _of: int) -> None:
        seen.update({path: s for path, s in temporary_files().items() if path not in before})
        names.update(path.name for path in (tmp_path / "out/.cryolike-wip").iterdir())

    plan = plan_conversion(read_star(star_file), None, ConvertOptions(batch_size=4))
    convert(plan, tmp_path / "out", progress=look)
    assert len(seen) == 2
    for path, file in seen.items():
        assert path.is_relative_to(tmp_path / "out")
        assert file.st_nlink == 0
        assert file.st_mode & 0o077 == 0
    assert not any(name.startswith("tmp") for name in names)
    assert temporary_files() == before
    assert verify(tmp_path / "out").is_good
    # No name was made in it, not even for a moment
    assert system.stat().st_mtime_ns == untouched


@pytest.mark.parametrize("command", ["inspect", "demo"])
def test_nothing_is_left_in_the_system_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Commands leave what they were asked to write, where they were asked to."""
    system = tmp_path / "tmp"
    system.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))
    star_file = write_relion_set(tmp_path / "set", n_images=12, n_pixels=16, n_stacks=2)
    arguments: dict[str, list[Any]] = {
        "inspect": [star_file],
        "demo": ["--output", tmp_path / "demo", "--images", "8", "--box", "16"],
    }
    outcome = run_program(command, *arguments[command])
    assert outcome.code == 0, outcome.err
    assert not any(system.iterdir())
