"""What is expected of a set that a user hands over, damaged or odd, and how such sets are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.builders import SetBuilder

from cryolike.conversion import ConvertOptions
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import CryoLikeError, MetadataError, UsageError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable

__all__ = [
    "Accepted",
    "Case",
    "Make",
    "Rejected",
    "Source",
    "cryosparc_source",
    "job_source",
    "option_words",
    "pairs_source",
    "star_source",
    "tree",
]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A particle set: how the library reads it, and what follows `cryolike convert`."""

    read: Callable[[], ParticleTable]
    words: tuple[str, ...]


Make = Callable[[SetBuilder], Source]


def star_source(path: Path, **options: bool) -> Source:
    """STAR file that names its images."""
    flags = [f"--{name.replace('_', '-')}" for name in options]
    return Source(read=partial(read_star, path, **options), words=("star", str(path), *flags))


def cryosparc_source(path: Path, *passthrough: Path) -> Source:
    """.cs or .csg file, and files to join to it."""
    flags = [word for file in passthrough for word in ("--passthrough", str(file))]
    return Source(
        read=partial(read_cryosparc, path, passthrough=passthrough),
        words=("cryosparc", str(path), *flags),
    )


def job_source(project: Path, number: int = 4) -> Source:
    """Job of a cryoSPARC project."""
    return Source(
        read=partial(read_job, project, number), words=("job", str(project), "--job", str(number))
    )


def pairs_source(star_files: list[Path], stacks: list[Path], *, radians: bool = False) -> Source:
    """STAR files and stacks, row for image."""
    words = [w for file in star_files for w in ("--star", str(file))]
    words += [w for file in stacks for w in ("--mrc", str(file))]
    read = partial(
        read_pairs,
        star_files,
        stacks,
        defocus_angle_is_degree=not radians,
        phase_shift_is_degree=not radians,
    )
    return Source(read=read, words=("paired", *words, *(["--radians"] if radians else [])))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A set and how it is converted.

    Parameters
    ----------
    id
        What is odd or wrong; a number in front is that of a pitfall known from other programs.
    make
        Writes the set.
    options, descriptor
        Of the conversion.
    """

    id: str
    make: Make
    options: Mapping[str, Any] = field(default_factory=dict)
    descriptor: ImageDescriptor | None = None


@dataclass(frozen=True, kw_only=True)
class Rejected(Case):
    """A set that must not be converted.

    Parameters
    ----------
    says
        Parts of the message: the file, the row or line, and the value.
    remedy
        What the message says to do about it.
    error
        Class of the error, exactly.
    n_problems
        How many things the error lists.
    by_pixels
        Whether only reading the images can tell.
    """

    says: tuple[str, ...]
    remedy: str
    error: type[CryoLikeError] = MetadataError
    n_problems: int = 1
    by_pixels: bool = False

    @property
    def exit_code(self) -> int:
        """Of the command: 2 for bad usage, 1 for bad data."""
        return 2 if issubclass(self.error, UsageError) else 1


@dataclass(frozen=True, kw_only=True)
class Accepted(Case):
    """A set that is odd, but converts.

    Parameters
    ----------
    warns, notes
        Parts of the messages of each level, one a message. There may be no other messages of that
        level, but for those that say what a default was.
    n_images
        How many come out.
    same_as
        Undamaged set with the same images in the same order, where there is one.
    """

    warns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n_images: int = 5
    same_as: Make | None = None


_FLAGS = {
    "folder": "--folder",
    "batch_size": "--batch-size",
    "pixel_size_A": "--pixel-size",
    "downsample_factor": "--downsample",
    "contrast": "--contrast",
    "on_bad_row": "--on-bad-row",
    "on_bad_image": "--on-bad-image",
    "n_stacks_max": "--stacks",
}


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Words of the command line for options of `ConvertOptions`."""
    ConvertOptions(**options)
    return [word for name, value in options.items() for word in (_FLAGS[name], str(value))]


def tree(folder: Path) -> dict[str, bytes | str]:
    """Give everything below a folder: content of files, targets of links, '' for others."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }
