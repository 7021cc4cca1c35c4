"""Particle sets made at random: metadata together with the stacks that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal

from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable
from cryolike.testing.cs import CsFile, make_cs_file
from cryolike.testing.damage import damage_cs, damage_csg, damage_mrc, damage_star
from cryolike.testing.meaning import Meaning
from cryolike.testing.mrc import make_mrc_file
from cryolike.testing.star import make_star_file

__all__ = ["ParticleSet", "damage_set", "make_particle_set"]

Kind = Literal["star", "cryosparc", "group", "paired", "job"]
_KINDS: tuple[Kind, ...] = ("star", "cryosparc", "group", "paired", "job")

_PIXEL_SIZE_A = 1.25
_METADATA = {
    "star": "particles.star",
    "cryosparc": "particles.cs",
    "group": "particles.csg",
    "paired": "particles.star",
    "job": "J4/J4_passthrough_particles.cs",
}


_GROUP = re.compile(r"'(\w+)/")
"""The group of a field in the header of a .cs file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleSet:
    """Metadata and stacks, and what the metadata means.

    Parameters
    ----------
    kind
        Which reader they are for.
    files
        Content of each file, by its name below a folder.
    meaning
        Of the rows.
    """

    kind: Kind
    files: Mapping[str, bytes] = field(repr=False)
    meaning: Meaning

    def __repr__(self) -> str:
        return f"ParticleSet(kind={self.kind!r}, files={dict(self.files)!r})"

    @property
    def metadata(self) -> str:
        """Name of the file that describes the rows."""
        return _METADATA[self.kind]

    def write(self, folder: Path) -> Path:
        """Write all files below a folder; return the path of the metadata."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.metadata

    def read(self, folder: Path) -> ParticleTable:
        """Read the files in the folder that they were written to."""
        path = folder / self.metadata
        if self.kind == "star":
            return read_star(path)
        if self.kind in ("cryosparc", "group"):
            return read_cryosparc(path)
        if self.kind == "job":
            return read_job(folder, 4)
        stacks = [folder / name for name in self.files if name != self.metadata]
        return read_pairs([path] * len(stacks), stacks)


def make_particle_set(random: Random, kind: Kind | None = None) -> ParticleSet:
    """Make a valid set of a few images, all of one box and pixel size.

    Parameters
    ----------
    random
        Decides everything else.
    kind
        Which reader it is for; any by default.

    Returns
    -------
    ParticleSet
        Reading it and planning its conversion finds no problems.
    """
    chosen = random.choice(_KINDS) if kind is None else kind
    box_px, n_stacks = random.randint(2, 8), random.randint(1, 3) if chosen != "paired" else 1
    counts = {_stack_name(chosen, i): random.randint(1, 4) for i in range(n_stacks)}
    files = {
        # RELION's and cryoSPARC's stacks may be compressed too: content counts, not the name
        name: make_mrc_file(
            random, n_images=n_images, box_px=box_px, pixel_size_A=_PIXEL_SIZE_A
        ).content
        for name, n_images in counts.items()
    }
    is_sequence = chosen in ("paired", "job")
    n_rows = sum(counts.values()) if is_sequence else random.randint(1, 6)
    if chosen in ("star", "paired"):
        made = make_star_file(random, stacks=counts, n_rows=n_rows, pixel_size_A=_PIXEL_SIZE_A)
        files[_METADATA[chosen]] = made.content
        meaning = made.meaning if chosen == "star" else made.meaning_without_names
    else:
        table = make_cs_file(
            random,
            stacks=counts,
            n_rows=n_rows,
            pixel_size_A=_PIXEL_SIZE_A,
            whole_groups=chosen == "group",
        )
        files |= _cs_files(chosen, table)
        meaning = table.meaning
    return ParticleSet(kind=chosen, files=files, meaning=meaning)


def _cs_files(kind: Kind, table: CsFile) -> dict[str, bytes]:
    """Name a .cs file and its passthrough file as cryoSPARC does, and list them in a .csg."""
    main, other = "particles.cs", "particles_passthrough.cs"
    if kind == "job":
        main, other = "J4/J4_passthrough_particles.cs", "J4/J4_particles.cs"
    files = {main: table.content}
    if table.passthrough:
        files[other] = table.passthrough
    if kind == "group":
        entries = "".join(
            f"  {group}:\n    metafile: '>{name}'\n    num_items: {len(table.meaning)}\n"
            for name in files
            for group in sorted(
                set(_GROUP.findall(files[name].partition(b"}")[0].decode("latin-1")))
            )
        )
        files[_METADATA[kind]] = f"group: {{name: particles}}\nresults:\n{entries}".encode()
    return files


def _stack_name(kind: Kind, i: int) -> str:
    if kind == "job":
        return f"J4/restack/batch_{i:06d}_restacked.mrc"
    return f"Extract/stack_{i}.mrcs"


def damage_set(random: Random, valid: ParticleSet) -> ParticleSet:
    """Damage one of the files of a set, or lose it.

    Parameters
    ----------
    random
        Decides which, and how.
    valid
        From `make_particle_set`.

    Returns
    -------
    ParticleSet
        With the meaning that it had.
    """
    name = random.choice(sorted(valid.files))
    files = dict(valid.files)
    if random.random() < 0.05:
        del files[name]
    else:
        damage: Callable[[Random, bytes], bytes] = damage_mrc
        if name.endswith(".star"):
            damage = damage_star
        elif name.endswith(".cs"):
            damage = damage_cs
        elif name.endswith(".csg"):
            damage = damage_csg
        files[name] = damage(random, files[name])
    return replace(valid, files=files)
