"""Files of templates: their names, and how they are written and read."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

from cryolike.errors import IncompleteOutputError, MissingFileError, OutputExistsError, Problem
from cryolike.store.reader import read_arrays
from cryolike.store.tensor_file import TensorFile
from cryolike.store.writer import acquire_lock, write_arrays, writing

__all__ = ["TemplateFiles", "TemplateFolder", "read_templates", "template_files"]

_PREFIX = "templates_fourier_"
_PLOT_PREFIXES = ("templates_fourier_", "templates_phys_", "power_spectrum_")
_LIST = "template_file_list.npy"
_ADVICE = "Choose another output folder, or make room there and ask for permission to write."


class TemplateFolder:
    """A folder while templates are written to it; a context manager.

    Each file is complete or absent, and the list of files comes last: where it is, all are.

    Parameters
    ----------
    folder
        Made where it does not exist.
    overwrite
        Remove templates that are there first.

    Raises
    ------
    OutputExistsError
        On entering, where there are templates and they are not to be overwritten.
    FolderInUseError
        On entering, where another process writes to the folder.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self.folder, self._overwrite = Path(folder), overwrite
        self._wip = self.folder / ".cryolike-templates-wip"
        self._made_folder = False
        self._lock: IO[str] | None = None
        self._written: list[Path] = []

    def refuse_existing(self) -> None:
        """Raise where there are templates, or something that is no folder.

        Raises
        ------
        OutputExistsError
            Nothing has been changed then.
        """
        if self.folder.exists() and not self.folder.is_dir():
            msg = f"{self.folder} is a file, not a folder. Choose another output folder."
            raise OutputExistsError(msg)
        present = [] if self._overwrite else self._present()
        if present:
            raise OutputExistsError(
                Problem(
                    message=f"already holds {len(present):,} files of templates",
                    file=str(self.folder),
                    places=[path.name for path in present],
                    remedy="Replace them with --overwrite (overwrite=True), or choose another "
                    "folder.",
                )
            )

    def __enter__(self) -> Self:
        self.refuse_existing()
        self._made_folder = not self.folder.exists()
        with writing(self.folder, _ADVICE):
            self._wip.mkdir(parents=True, exist_ok=True)
            self._lock = acquire_lock(self._wip / "lock")
            for path in self._present():
                path.unlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            shutil.rmtree(self._wip, ignore_errors=True)
            self._lock.close()
        if self._made_folder and error is not None:
            with suppress(OSError):
                self.folder.rmdir()

    def _present(self) -> list[Path]:
        """Files of ours, the list first: without it the others count as unfinished."""
        patterns = [_LIST, f"{_PREFIX}*.pt", f"{_PREFIX}*.npz"]
        patterns += [f"plots/{prefix}*.png" for prefix in _PLOT_PREFIXES]
        return [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]

    def write(
        self,
        name: str,
        batches: Iterable[Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        arrays: Mapping[str, np.ndarray],
    ) -> Path:
        """Write the templates of a structure as they come, and what they are of.

        Parameters
        ----------
        name
            Of the structure.
        batches
            Templates in order.
        shape, dtype
            Of all of them.
        arrays
            Plain arrays that describe them, for the ``.npz`` beside them.

        Returns
        -------
        Path
            Of the templates.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        target = self.folder / f"{_PREFIX}{name}.pt"
        described = target.with_name(f"{_PREFIX}{name}.npz")
        with writing(target, _ADVICE), (self._wip / described.name).open("wb") as file:
            write_arrays(file, arrays)
        draft = self._wip / target.name
        with writing(target, _ADVICE):
            tensor = TensorFile(draft, shape, dtype)
        with tensor:
            for batch in batches:
                with writing(target, _ADVICE):
                    tensor.append(batch.contiguous().numpy())
            with writing(target, _ADVICE):
                tensor.finish(target.name)
                (self._wip / described.name).replace(described)
                draft.replace(target)
        self._written.append(target)
        return target

    def write_plots(self, name: str, pictures: Sequence[bytes]) -> None:
        """Write the plots of a structure: PNG files of polar images, pixels, power spectrum.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        for prefix, picture in zip(_PLOT_PREFIXES, pictures, strict=True):
            target = self.folder / "plots" / f"{prefix}{name}.png"
            with writing(target, _ADVICE):
                target.parent.mkdir(exist_ok=True)
                draft = self._wip / target.name
                draft.write_bytes(picture)
                draft.replace(target)

    def finish(self) -> tuple[Path, ...]:
        """Write the list of files; all that was written counts from now on.

        Returns
        -------
        tuple of Path
            Of the templates, in the order of writing.
        """
        target = self.folder / _LIST
        with writing(target, _ADVICE):
            draft = self._wip / _LIST
            np.save(draft, np.array([str(path) for path in self._written]), allow_pickle=False)
            draft.replace(target)
        return tuple(self._written)


class TemplateFiles:
    """The templates of one structure on disk.

    Parameters
    ----------
    path
        Of the ``.pt`` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Name of the structure."""
        return self.path.stem.removeprefix(_PREFIX)

    def arrays(self, *required: str) -> dict[str, np.ndarray] | None:
        """Read what the templates are of; None where the program that wrote them did not say.

        Parameters
        ----------
        *required
            Arrays that must be there.

        Raises
        ------
        IncompleteOutputError
            Where the file is damaged or lacks one of them.
        """
        described = self.path.with_suffix(".npz")
        if not described.exists():
            return None
        arrays = read_arrays(described)
        missing = [name for name in required if name not in arrays]
        if missing:
            raise _unreadable(described, f"it lacks {', '.join(missing)}")
        return arrays


def template_files(source: str | Path) -> list[TemplateFiles]:
    """Find the files of templates.

    Parameters
    ----------
    source
        Folder, list of files (``template_file_list.npy``), or a file of templates.

    Returns
    -------
    list of TemplateFiles
        In the order of the list. A file that is not where the list says is looked for beside it.

    Raises
    ------
    MissingFileError
        Where there are none, or a file of the list is missing; all are named.
    IncompleteOutputError
        Where the list cannot be read.
    """
    source = Path(source)
    if source.suffix == ".pt":
        paths = [source]
    else:
        listed = source / _LIST if source.is_dir() else source
        if not listed.exists():
            msg = (
                f"{source}: no templates there ({listed.name} is missing). Make them with "
                "`cryolike templates`."
            )
            raise MissingFileError(msg)
        paths = [_found(Path(path), listed.parent) for path in _read_list(listed)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        remedy = "Make the templates again with `cryolike templates`, or put the files back."
        problem = Problem(message="files of templates are missing", remedy=remedy, places=missing)
        raise MissingFileError(problem)
    return [TemplateFiles(path) for path in paths]


def read_templates(path: Path) -> Tensor:
    """Map a file of templates into memory: nothing but a tensor is ever read from it.

    Raises
    ------
    IncompleteOutputError
        Where it is damaged or holds something else.
    """
    try:
        images = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, str(error)) from error
    except Exception:  # torch's message tells how to run what is in the file
        raise _unreadable(path, "it holds other things than a tensor") from None
    if not isinstance(images, Tensor) or images.ndim != 3 or not images.is_complex():
        raise _unreadable(path, "it holds no complex tensor (views, shells, angles)")
    return images


def _read_list(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            names: Any = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy raises several kinds for damaged files
        raise _unreadable(path, str(error)) from error
    if names.ndim != 1 or names.dtype.kind != "U" or not names.size:
        raise _unreadable(path, "it holds no list of paths")
    return [str(name) for name in names]


def _found(path: Path, folder: Path) -> Path:
    """Look beside the list first: the folder may have been moved or copied."""
    beside = folder / path.name
    return beside if beside.exists() else path


def _unreadable(path: Path, reason: str) -> IncompleteOutputError:
    remedy = "Make the templates again with `cryolike templates`."
    return IncompleteOutputError(
        Problem(message=f"cannot be opened ({reason})", remedy=remedy, file=str(path))
    )
