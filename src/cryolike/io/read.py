"""Reading any metadata file, and reading the same one again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryolike.errors import UsageError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.particles import InputKind, ParticleTable

__all__ = ["read_particles", "read_table_again"]

_READERS: dict[InputKind, Callable[..., ParticleTable]] = {
    "star": read_star,
    "cryosparc": read_cryosparc,
    "job": read_job,
    "paired": read_pairs,
}


def read_particles(
    path: str | Path,
    *,
    passthrough: Sequence[str | Path] = (),
    accept_ctf_applied: bool = False,
) -> ParticleTable:
    """Read the metadata of a particle set: a STAR file, a ``.cs`` file or a ``.csg`` result group.

    Parameters
    ----------
    path
        Metadata file that names its images.
    passthrough
        Further ``.cs`` files to join by uid.
    accept_ctf_applied
        Accept images whose metadata says that phases were flipped or the CTF multiplied in.

    Returns
    -------
    ParticleTable
        Faults of rows are in its `problems`; planning a conversion raises them.

    Raises
    ------
    MetadataError, MissingFileError
        Where the file as a whole cannot be read.
    """
    if Path(path).suffix.lower() in (".cs", ".csg"):
        return read_cryosparc(path, passthrough=passthrough)
    if passthrough:
        raise UsageError("--passthrough is for cryoSPARC's .cs files; this is not one.")
    return read_star(path, accept_ctf_applied=accept_ctf_applied)


def read_table_again(kind: str, arguments: Mapping[str, Any]) -> ParticleTable:
    """Read the table that a reader read before.

    Parameters
    ----------
    kind
        Of the table.
    arguments
        Its `reader_arguments`.

    Returns
    -------
    ParticleTable
        All rows of the file.
    """
    return _READERS[kind](**arguments)  # type: ignore[index]
