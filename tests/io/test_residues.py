"""Names of residues and radii of beads."""

from __future__ import annotations

import pytest

from cryolike.io.residues import (
    RESIDUE_RADIUS_A,
    UNKNOWN_RESIDUE_RADIUS_A,
    is_nucleic,
    is_protein,
    is_standard,
    is_water,
    parent_of,
    same_residue,
)

PUBLISHED = (
    "CYS 2.75 PHE 3.20 LEU 3.10 TRP 3.40 VAL 2.95 ILE 3.10 MET 3.10 HIS 3.05 TYR 3.25 ALA 2.50 "
    "GLY 2.25 PRO 2.80 ASN 2.85 THR 2.80 SER 2.60 ARG 3.30 GLN 3.00 ASP 2.80 LYS 3.20 GLU 2.95"
)


def test_radii_are_the_published_ones() -> None:
    """All twenty of Cossio and Hummer's table, in its order."""
    words = PUBLISHED.split()
    assert dict(zip(words[::2], map(float, words[1::2]), strict=True)) == RESIDUE_RADIUS_A
    assert UNKNOWN_RESIDUE_RADIUS_A == 2.95


@pytest.mark.parametrize(
    ("name", "residue"),
    [
        ("ALA", "ALA"),
        ("HSD", "HIS"),
        ("HIE", "HIS"),
        ("CYX", "CYS"),
        ("ASH", "ASP"),
        ("GLUP", "GLU"),
        ("LYN", "LYS"),
        ("NALA", "ALA"),
        ("CHIE", "HIS"),
        ("MSE", "MSE"),
        ("UNK", "UNK"),
        ("ALAN", "ALAN"),
        ("C", "C"),
    ],
)
def test_states_of_protonation_are_the_same_residue(name: str, residue: str) -> None:
    """Names of simulation programs are known; others are left as they are."""
    assert same_residue(name) == residue


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("MSE", "MET"),
        ("SEP", "SER"),
        ("TPO", "THR"),
        ("PTR", "TYR"),
        ("SEC", "CYS"),
        ("PYL", "LYS"),
        ("UNK", None),
        ("HOH", None),
        ("DA", None),
        ("CA", None),
        ("???", None),
    ],
)
def test_modified_residues_have_parents(name: str, parent: str | None) -> None:
    """The PDB knows what a modified amino acid is made from."""
    assert parent_of(name) == parent


def test_residues_are_told_apart() -> None:
    """Protein, nucleic acid, water, and the rest."""
    assert all(map(is_protein, ["ALA", "HSD", "MSE", "NALA", "UNK", "SEC"]))
    assert all(map(is_nucleic, ["A", "DA", "U", "DT", "ADE", "PSU"]))
    assert all(map(is_water, ["HOH", "WAT", "SOL", "TIP3", "DOD"]))
    for name in ("CA", "HEM", "NAG", "ATP", "ZZZ"):
        assert not any(is_one(name) for is_one in (is_protein, is_nucleic, is_water))
    assert all(map(is_standard, ["ALA", "HSD", "DG", "U"]))
    assert not any(map(is_standard, ["MSE", "HOH", "PSU", "UNK"]))
