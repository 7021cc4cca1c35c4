"""Names of residues: which molecules they are of, and radii of beads that stand for them."""

from __future__ import annotations

import gemmi

__all__ = [
    "RESIDUE_RADIUS_A",
    "UNKNOWN_RESIDUE_RADIUS_A",
    "is_nucleic",
    "is_protein",
    "is_standard",
    "is_water",
    "parent_of",
    "same_residue",
]

RESIDUE_RADIUS_A = {
    "ALA": 2.50,
    "ARG": 3.30,
    "ASN": 2.85,
    "ASP": 2.80,
    "CYS": 2.75,
    "GLN": 3.00,
    "GLU": 2.95,
    "GLY": 2.25,
    "HIS": 3.05,
    "ILE": 3.10,
    "LEU": 3.10,
    "LYS": 3.20,
    "MET": 3.10,
    "PHE": 3.20,
    "PRO": 2.80,
    "SER": 2.60,
    "THR": 2.80,
    "TRP": 3.40,
    "TYR": 3.25,
    "VAL": 2.95,
}
"""Radius of one bead for each residue, Å (Cossio & Hummer, J. Struct. Biol. 184, 427, 2013)."""

UNKNOWN_RESIDUE_RADIUS_A = round(sum(RESIDUE_RADIUS_A.values()) / len(RESIDUE_RADIUS_A), 2)
"""Where a residue has no radius of its own: the mean of those in the table, Å."""

_SAME = {
    **dict.fromkeys(("ARGN", "ARN"), "ARG"),
    **dict.fromkeys(("ASH", "ASPH", "ASPP"), "ASP"),
    **dict.fromkeys(("CYM", "CYN", "CYS1", "CYS2", "CYSH", "CYX"), "CYS"),
    **dict.fromkeys(("GLH", "GLUH", "GLUP"), "GLU"),
    **dict.fromkeys(
        ("HID", "HIE", "HIP", "HIS1", "HIS2", "HISA", "HISB", "HISD", "HISE", "HISH"), "HIS"
    ),
    **dict.fromkeys(("HSD", "HSE", "HSP"), "HIS"),
    **dict.fromkeys(("LSN", "LYN", "LYSH"), "LYS"),
    "TYM": "TYR",
}
"""Names that Amber, CHARMM, GROMACS and OPLS give to states of protonation."""

_PARENT_OF_RARE = {"SEC": "CYS", "PYL": "LYS"}

_WATERS = {"H2O", "OH2", "SOL", "SPC", "TIP", "TIP2", "TIP3", "TIP4", "TIP5", "T3P", "T4P", "WAT"}
_NUCLEOTIDES = {"A", "C", "G", "U", "DA", "DC", "DG", "DT"}
_OTHER_NUCLEOTIDES = {"ADE", "CYT", "GUA", "THY", "URA"}


def same_residue(name: str) -> str:
    """Name of the amino acid that a residue is under another name, or the name itself.

    States of protonation, and Amber's names for residues at the ends of chains (NALA, CALA).
    """
    inner = name[1:] if len(name) == 4 and name[0] in "NC" else ""
    for candidate in (name, inner):
        known = _SAME.get(candidate, candidate)
        if known in RESIDUE_RADIUS_A:
            return known
    return name


def parent_of(name: str) -> str | None:
    """Amino acid that a residue is a modification of, such as MET of MSE; None where unknown."""
    if name in _PARENT_OF_RARE:
        return _PARENT_OF_RARE[name]
    found = gemmi.find_tabulated_residue(name)
    if not (found.found() and found.is_amino_acid()):
        return None
    parent = gemmi.expand_one_letter(found.one_letter_code.upper(), gemmi.ResidueKind.AA)
    return parent if parent in RESIDUE_RADIUS_A else None


def is_protein(name: str) -> bool:
    """Whether a residue is an amino acid, standard or modified."""
    return same_residue(name) in RESIDUE_RADIUS_A or _is(name, "is_amino_acid")


def is_nucleic(name: str) -> bool:
    """Whether a residue is a nucleotide."""
    return name in _OTHER_NUCLEOTIDES or _is(name, "is_nucleic_acid")


def is_water(name: str) -> bool:
    """Whether a residue is water, by the names of the PDB and of simulation programs."""
    return name in _WATERS or _is(name, "is_water")


def is_standard(name: str) -> bool:
    """Whether a residue is one of the twenty amino acids or eight nucleotides, unmodified."""
    return same_residue(name) in RESIDUE_RADIUS_A or name in _NUCLEOTIDES


def _is(name: str, what: str) -> bool:
    found = gemmi.find_tabulated_residue(name)
    return bool(found.found() and getattr(found, what)())
