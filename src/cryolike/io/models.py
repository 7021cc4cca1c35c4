"""Atomic models out of tables of atoms: beads, or atoms that scatter electrons."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import (
    CryoLikeWarning,
    MetadataError,
    Problem,
    UsageError,
    counted,
    raise_problems,
)
from cryolike.io.atom_selection import parse_selection
from cryolike.io.atoms import AtomTable
from cryolike.io.residues import (
    RESIDUE_RADIUS_A,
    UNKNOWN_RESIDUE_RADIUS_A,
    is_nucleic,
    is_standard,
    parent_of,
    same_residue,
)
from cryolike.physics.scattering import (
    ATOM_SHAPES,
    AtomicModel,
    bead_form_factors,
    electron_form_factors,
    scatters_electrons,
)

__all__ = ["AtomSettings", "atomic_model"]

_ATOM_MODELS = ("beads", "electron")
_BIOLOGICAL_ELEMENTS = ("H", "D", "C", "N", "O", "P", "S", "Se")
_OCCUPANCY_ROUNDING = 1e-3
_GIVE_RADII = "Give one radius for all (atom_radii), or the atom model 'electron'."


@dataclass(frozen=True)
class AtomSettings:
    """How an atomic model becomes something that scatters.

    Parameters
    ----------
    atom_selection
        Which atoms count, as `cryolike.io.atom_selection.parse_selection` explains.
    atom_radii
        One radius for all beads, Å; it takes precedence over the residues' own.
    use_protein_residue_model
        Whether each selected atom is a bead with the radius of its residue.
    atom_shape
        Of beads: 'gaussian' (the radius is the standard deviation) or 'hard-sphere'.
    atom_model
        'beads', all of which count the same; or 'electron': every selected atom with its
        element's electron scattering factors, its B-factor and its occupancy. Radii and shape
        then have no meaning.
    strict
        Whether a residue whose radius is unknown is an error, rather than a warning.

    Raises
    ------
    UsageError
        Where a setting is out of range or they contradict each other; all of them are listed.
    """

    atom_selection: str = "name CA"
    atom_radii: float | None = None
    use_protein_residue_model: bool = True
    atom_shape: str = "gaussian"
    atom_model: Literal["beads", "electron"] = "beads"
    strict: bool = False

    def __post_init__(self) -> None:
        faults: list[Problem] = []
        try:
            parse_selection(self.atom_selection)
        except UsageError as error:
            faults.extend(error.problems)
        radius = self.atom_radii
        if radius is not None and not (math.isfinite(radius) and radius > 0):
            message = f"atom_radii is {radius}; it must be a positive number of Å"
            faults.append(Problem(message=message, kind="usage"))
        if self.atom_shape not in ATOM_SHAPES:
            message = f"atom_shape is {self.atom_shape!r}; it must be {' or '.join(ATOM_SHAPES)}"
            faults.append(Problem(message=message, kind="usage"))
        if self.atom_model not in _ATOM_MODELS:
            message = f"atom_model is {self.atom_model!r}; it must be {' or '.join(_ATOM_MODELS)}"
            faults.append(Problem(message=message, kind="usage"))
        if self.atom_model == "beads" and radius is None and not self.use_protein_residue_model:
            message = (
                "beads without a radius: atom_radii is None, and the residue model is not used"
            )
            faults.append(Problem(message=message, remedy=_GIVE_RADII, kind="usage"))
        raise_problems(faults)

    @classmethod
    def from_descriptor(
        cls,
        descriptor: ImageDescriptor,
        *,
        atom_model: Literal["beads", "electron"] = "beads",
        strict: bool = False,
    ) -> Self:
        """Take the settings that a descriptor carries."""
        return cls(
            atom_selection=descriptor.atom_selection,
            atom_radii=descriptor.atom_radii,
            use_protein_residue_model=descriptor.use_protein_residue_model,
            atom_shape=descriptor.atom_shape,
            atom_model=atom_model,
            strict=strict,
        )


def atomic_model(atoms: AtomTable, settings: AtomSettings, name: str) -> AtomicModel:
    """Make an atomic model of the selected atoms.

    Parameters
    ----------
    atoms
        All of a file.
    settings
        Which of them count, and how they scatter.
    name
        Of the structure.

    Raises
    ------
    UsageError
        Where no atom is selected.
    MetadataError
        Where the file lacks what the model needs.
    """
    _warn_of_what_is_left_out(atoms)
    chosen = np.flatnonzero(parse_selection(settings.atom_selection)(atoms))
    if chosen.size == 0:
        message = f"the selection {settings.atom_selection!r} takes no atom. {atoms.describe()}"
        remedy = "Select atoms that are in the file: 'all', 'protein', 'name P', 'chain A', …"
        raise UsageError(Problem(message=message, remedy=remedy, file=atoms.path, kind="usage"))
    make = _beads if settings.atom_model == "beads" else _electron_scatterers
    return make(atoms, chosen, settings, name)


def _warn(atoms: AtomTable, message: str) -> None:
    warnings.warn(f"{atoms.path}: {message}.", CryoLikeWarning, stacklevel=4)


def _warn_of_what_is_left_out(atoms: AtomTable) -> None:
    if atoms.n_models > 1:
        _warn(atoms, f"holds {counted(atoms.n_models, 'model')}; the first one is taken")
    if atoms.n_copies > 1:
        _warn(
            atoms,
            f"describes an assembly or symmetry of {atoms.n_copies} copies; only the coordinates "
            "in the file are taken (make the assembly with `gemmi convert --assembly=1`)",
        )


def _centred(positions_A: np.ndarray) -> np.ndarray:
    centred: np.ndarray = positions_A - positions_A.mean(axis=0)
    return centred


def _beads(atoms: AtomTable, chosen: np.ndarray, settings: AtomSettings, name: str) -> AtomicModel:
    """Make each selected atom a bead; they all count the same.

    Raises
    ------
    MetadataError
        In strict use, where the radius of a residue is not known.
    """
    first = _first_alternatives(atoms, chosen)
    if first.size < chosen.size:
        left_out = counted(chosen.size - first.size, "alternative position")
        _warn(atoms, f"{left_out} of {chosen.size:,} left out; the first in the file is a bead")
    _warn_of_nucleic_acid(atoms, first, settings)
    if settings.atom_radii is not None:
        radius_A = np.full(first.size, settings.atom_radii)
    else:
        radius_A = _residue_radii_A(atoms, first, settings.strict)
    radii_A, kind = np.unique(radius_A, return_inverse=True)
    return AtomicModel(
        name=name,
        positions_A=_centred(atoms.positions_A[first]),
        kind=kind.astype(np.int64),
        weight=np.ones(first.size),
        form_factors=bead_form_factors(radii_A, settings.atom_shape),
    )


def _first_alternatives(atoms: AtomTable, chosen: np.ndarray) -> np.ndarray:
    """Leave out atoms that are a further position of one before."""
    seen: set[tuple[str, int, str, str]] = set()
    kept = []
    for atom in chosen.tolist():
        if atoms.alternative[atom]:
            key = (
                str(atoms.chain[atom]),
                int(atoms.residue_number[atom]),
                str(atoms.insertion_code[atom]),
                str(atoms.atom_name[atom]),
            )
            if key in seen:
                continue
            seen.add(key)
        kept.append(atom)
    return np.array(kept, dtype=np.int64)


def _warn_of_nucleic_acid(atoms: AtomTable, chosen: np.ndarray, settings: AtomSettings) -> None:
    """Tell that the usual selection, of alpha carbons, leaves out nucleic acids."""
    nucleic = [name for name in np.unique(atoms.residue_name) if is_nucleic(str(name))]
    is_in = np.isin(atoms.residue_name, nucleic)
    if is_in.any() and not is_in[chosen].any() and settings.atom_selection == "name CA":
        n_residues = np.unique(atoms.residue_index[is_in]).size
        what = counted(n_residues, "nucleotide")
        _warn(atoms, f"{what} in the file are left out by the selection 'name CA'")


def _residue_radii_A(atoms: AtomTable, chosen: np.ndarray, strict: bool) -> np.ndarray:
    """Radius of the residue of each chosen atom, Å.

    Raises
    ------
    MetadataError
        In strict use, where one is not known.
    """
    names, inverse, counts = np.unique(
        atoms.residue_name[chosen], return_inverse=True, return_counts=True
    )
    radii_A, replaced, unknown = [], [], []
    for name, count in zip(map(str, names), counts, strict=True):
        radius_A = RESIDUE_RADIUS_A.get(same_residue(name))
        if radius_A is None and (parent := parent_of(name)) is not None:
            radius_A = RESIDUE_RADIUS_A[parent]
            replaced.append(f"{name} ({count:,}) as {parent}, {radius_A:.2f} Å")
        elif radius_A is None:
            radius_A = UNKNOWN_RESIDUE_RADIUS_A
            unknown.append(f"{name} ({count:,})")
        radii_A.append(radius_A)
    if replaced:
        _warn(
            atoms,
            f"modified residues have the radius of what they are made from: {'; '.join(replaced)}",
        )
    if unknown and strict:
        message = f"residues whose radius is not known: {', '.join(unknown)}"
        raise MetadataError(Problem(message=message, remedy=_GIVE_RADII, file=atoms.path))
    if unknown:
        _warn(
            atoms,
            f"residues whose radius is not known have the mean of all, "
            f"{UNKNOWN_RESIDUE_RADIUS_A:.2f} Å: {', '.join(unknown)}",
        )
    if np.unique(atoms.residue_index[chosen]).size < chosen.size:
        _warn(
            atoms,
            f"some residues have several of the {chosen.size:,} selected atoms, each of which is "
            "a bead with the radius of the whole residue; 'name CA' takes one of each",
        )
    return np.array(radii_A)[inverse.ravel()]


def _electron_scatterers(
    atoms: AtomTable, chosen: np.ndarray, settings: AtomSettings, name: str
) -> AtomicModel:
    """Give each selected atom its element's electron scattering.

    Raises
    ------
    MetadataError
        Where elements, occupancies or B-factors cannot be used; all of them are listed.
    """
    raise_problems([*atoms.weight_problems, *_electron_problems(atoms, chosen)])
    if settings.atom_selection == "name CA" and chosen.size < len(atoms):
        _warn(
            atoms,
            f"only {chosen.size:,} of {len(atoms):,} atoms scatter, those of the selection "
            "'name CA'; 'all', or 'not water', takes the others too",
        )
    if atoms.has_confidences:
        _warn(atoms, "is a predicted structure; its B-factors may be confidences, taken as B in Å²")
    elements, element_of_atom = np.unique(atoms.element[chosen], return_inverse=True)
    of_atom = np.stack([element_of_atom.ravel(), atoms.b_factor_A2[chosen]])
    kinds, kind = np.unique(of_atom, axis=1, return_inverse=True)
    symbols = [str(elements[int(element)]) for element in kinds[0]]
    return AtomicModel(
        name=name,
        positions_A=_centred(atoms.positions_A[chosen]),
        kind=kind.ravel().astype(np.int64),
        weight=atoms.occupancy[chosen],
        form_factors=electron_form_factors(symbols, kinds[1]),
    )


def _electron_problems(atoms: AtomTable, chosen: np.ndarray) -> list[Problem]:
    """Find what stands against scattering by the chosen atoms."""
    elements = atoms.element[chosen]
    is_unknown = np.isin(
        elements, [name for name in np.unique(elements) if not scatters_electrons(str(name))]
    )
    standard = [name for name in np.unique(atoms.residue_name) if is_standard(str(name))]
    is_odd = (
        np.isin(atoms.residue_name[chosen], standard)
        & ~np.isin(elements, _BIOLOGICAL_ELEMENTS)
        & ~is_unknown
    )
    occupancy, b_factor_A2 = atoms.occupancy[chosen], atoms.b_factor_A2[chosen]
    columns = "Write the element into the file (columns 77 and 78 of a PDB file)."
    found = [
        ("elements without electron scattering factors", columns, is_unknown, elements),
        ("elements that the residue does not have", columns, is_odd, elements),
        (
            "occupancies that are not from 0 to 1",
            "Correct them.",
            ~((occupancy >= 0) & (occupancy <= 1 + _OCCUPANCY_ROUNDING)),
            occupancy,
        ),
        ("negative B-factors", "Correct them.", ~(b_factor_A2 >= 0), b_factor_A2),
    ]
    problems = [
        Problem(
            message=message,
            remedy=remedy,
            file=atoms.path,
            places=[f"{atoms.label(int(chosen[i]))}: {values[i]}" for i in np.flatnonzero(is_bad)],
        )
        for message, remedy, is_bad, values in found
        if is_bad.any()
    ]
    if not occupancy.any():
        message = "all selected atoms have occupancy 0: nothing scatters"
        problems.append(Problem(message=message, remedy="Correct them.", file=atoms.path))
    return problems
