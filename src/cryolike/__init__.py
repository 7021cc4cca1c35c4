"""How well does a structure explain particle images? Conversion and comparison of particle sets.

The published functions, and the native path underneath: read a metadata file into a table, plan,
convert, open the stacks again; read a structure, make its templates, search for the poses of
images and say how likely they are.

Examples
--------
>>> table = read_particles("particles.star")                   # doctest: +SKIP
>>> plan = plan_conversion(table)                              # doctest: +SKIP
>>> report = convert(plan, "converted")                        # doctest: +SKIP
>>> open_stacks("converted").table                             # doctest: +SKIP
>>> model = read_structure("model.pdb")                        # doctest: +SKIP
>>> templates = make_templates(model, plan.descriptor)         # doctest: +SKIP
>>> batch = next(iter(iter_polar(table, plan.descriptor)))     # doctest: +SKIP
>>> score(batch.images, batch.ctf, templates)                  # doctest: +SKIP
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
from cryolike.io.structure import read_structure
from cryolike.particles import ParticleTable, select_rows
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.published import (
    configure_displacement,
    configure_likelihood_files,
    run_likelihood_full_cross_correlation,
    run_likelihood_optimal_pose,
    stitch_log_likelihood_matrices,
)
from cryolike.scoring.score import score
from cryolike.scoring.search import PoseSearch
from cryolike.store import StackSet, open_stacks
from cryolike.templates import TemplateSet, make_templates, open_templates
from cryolike.wrappers import (
    convert_particle_stacks_from_cryosparc_job_directory,
    convert_particle_stacks_from_indexed_cryosparc_file,
    convert_particle_stacks_from_indexed_star_file,
    convert_particle_stacks_from_paired_star_and_mrc_files,
    make_templates_from_inputs,
)

__version__ = _version("cryolike")

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertOptions",
    "CryoLikeError",
    "CryoLikeWarning",
    "Displacements",
    "ImageDescriptor",
    "ParticleDataset",
    "ParticleTable",
    "PoseSearch",
    "StackSet",
    "TemplateSet",
    "__version__",
    "configure_displacement",
    "configure_likelihood_files",
    "convert",
    "convert_particle_stacks_from_cryosparc_job_directory",
    "convert_particle_stacks_from_indexed_cryosparc_file",
    "convert_particle_stacks_from_indexed_star_file",
    "convert_particle_stacks_from_paired_star_and_mrc_files",
    "inspect_particles",
    "iter_polar",
    "make_templates",
    "make_templates_from_inputs",
    "open_stacks",
    "open_templates",
    "plan_conversion",
    "read_cryosparc",
    "read_job",
    "read_pairs",
    "read_particles",
    "read_star",
    "read_structure",
    "run_likelihood_full_cross_correlation",
    "run_likelihood_optimal_pose",
    "score",
    "select_rows",
    "stitch_log_likelihood_matrices",
    "survey",
    "verify",
]
