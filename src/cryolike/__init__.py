"""How well does a structure explain particle images? Conversion of cryo-EM particle sets.

The published functions, and the native path underneath: read a metadata file into a table, plan,
convert, open the stacks again.

Examples
--------
>>> table = read_particles("particles.star")                   # doctest: +SKIP
>>> plan = plan_conversion(table)                              # doctest: +SKIP
>>> report = convert(plan, "converted")                        # doctest: +SKIP
>>> open_stacks("converted").table                             # doctest: +SKIP
"""

from importlib.metadata import version as _version

from cryolike.conversion import (
    ConversionPlan,
    ConversionReport,
    ConvertOptions,
    convert,
    inspect_particles,
    plan_conversion,
    survey,
    verify,
)
from cryolike.dataset import ParticleDataset, iter_polar
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import CryoLikeError, CryoLikeWarning
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.read import read_particles
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable, select_rows
from cryolike.store import StackSet, open_stacks
from cryolike.wrappers import (
    convert_particle_stacks_from_cryosparc_job_directory,
    convert_particle_stacks_from_indexed_cryosparc_file,
    convert_particle_stacks_from_indexed_star_file,
    convert_particle_stacks_from_paired_star_and_mrc_files,
)

__version__ = _version("cryolike")

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertOptions",
    "CryoLikeError",
    "CryoLikeWarning",
    "ImageDescriptor",
    "ParticleDataset",
    "ParticleTable",
    "StackSet",
    "__version__",
    "convert",
    "convert_particle_stacks_from_cryosparc_job_directory",
    "convert_particle_stacks_from_indexed_cryosparc_file",
    "convert_particle_stacks_from_indexed_star_file",
    "convert_particle_stacks_from_paired_star_and_mrc_files",
    "inspect_particles",
    "iter_polar",
    "open_stacks",
    "plan_conversion",
    "read_cryosparc",
    "read_job",
    "read_pairs",
    "read_particles",
    "read_star",
    "select_rows",
    "survey",
    "verify",
]
