"""Files made at random, for tests of programs that read or write what cryolike reads.

Strategies for Hypothesis give whole STAR, ``.cs`` and MRC files: valid ones with what they mean,
and damaged ones. The functions ``make_…`` and ``damage_…`` do the same from a `random.Random`, a
hundred times as fast, for long runs.

This needs Hypothesis: ``pip install 'cryolike[test]'``. Nothing else in cryolike does.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "hypothesis":
        raise
    _message = "cryolike.testing needs Hypothesis. Install it with: pip install 'cryolike[test]'"
    raise ModuleNotFoundError(_message, name="hypothesis") from None

from cryolike.testing.checks import (
    check_header,
    check_problems,
    check_table,
    read_images,
    result_or_refusal,
)
from cryolike.testing.cs import CsFile, make_cs_file
from cryolike.testing.damage import (
    damage_cs,
    damage_csg,
    damage_mrc,
    damage_npz,
    damage_star,
    damaged_bytes,
)
from cryolike.testing.meaning import Meaning, differences
from cryolike.testing.mrc import MrcFile, make_mrc_file
from cryolike.testing.sets import ParticleSet, damage_set, make_particle_set
from cryolike.testing.star import StarFile, make_star_file
from cryolike.testing.strategies import (
    cs_files,
    damaged_cs_files,
    damaged_mrc_files,
    damaged_particle_sets,
    damaged_star_files,
    mrc_files,
    particle_sets,
    star_files,
)

__all__ = [
    "CsFile",
    "Meaning",
    "MrcFile",
    "ParticleSet",
    "StarFile",
    "check_header",
    "check_problems",
    "check_table",
    "cs_files",
    "damage_cs",
    "damage_csg",
    "damage_mrc",
    "damage_npz",
    "damage_set",
    "damage_star",
    "damaged_bytes",
    "damaged_cs_files",
    "damaged_mrc_files",
    "damaged_particle_sets",
    "damaged_star_files",
    "differences",
    "make_cs_file",
    "make_mrc_file",
    "make_particle_set",
    "make_star_file",
    "mrc_files",
    "particle_sets",
    "read_images",
    "result_or_refusal",
    "star_files",
]
