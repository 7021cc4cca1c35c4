"""Atoms out of PDB and mmCIF files, as one table of arrays."""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from cryolike.errors import MetadataError, Problem, counted, raise_problems
from cryolike.io.sniff import BOM, read_head, recognise

__all__ = ["AtomTable", "coordinate_format", "decompressed_head", "is_binary", "read_atoms"]

CoordinateFormat = Literal["pdb", "mmcif"]

_MAX_TEXT_BYTES = 1 << 30
"""Far more than the largest structure of the PDB; a file that expands to more is not read."""

_HEAD_BYTES = 1 << 16
_N_MOST_COMMON = 12
_NO_NUMBER = -(2**62)
_FARTHEST_A = 1e6

_PDB_RECORD = re.compile(
    rb"^(HEADER|OBSLTE|TITLE|SPLIT|CAVEAT|COMPND|SOURCE|KEYWDS|EXPDTA|NUMMDL|MDLTYP|AUTHOR|REVDAT"
    rb"|SPRSDE|JRNL|REMARK|DBREF|SEQRES|HET|HELIX|SHEET|SSBOND|LINK|CRYST1|ORIGX1|SCALE1|MTRIX1"
    rb"|MODEL|ATOM|HETATM|USER)",
    re.MULTILINE,
)
_MMCIF_BLOCK = re.compile(rb"\A(\s*#[^\n]*\n|\s+)*data_", re.IGNORECASE)
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")

_COLUMNS = {"x": (30, 38), "y": (38, 46), "z": (46, 54)}
_WEIGHT_COLUMNS = {"occupancy": (54, 60), "B-factor": (60, 66)}


@dataclass(frozen=True, eq=False)
class AtomTable:
    """Atoms of the first model of a file, in the file's order.

    Parameters
    ----------
    path
        The file.
    positions_A
        x, y, z as in the file, Å, (n, 3).
    atom_name, residue_name, chain
        As in the file (chains by the author's letters), (n,).
    residue_number, insertion_code
        As in the file, (n,).
    residue_index
        Which residue of the file, from 0, (n,).
    element
        Symbol, 'X' where it is not known, (n,).
    alternative
        Letter of the alternative conformation, '' where there is but one, (n,).
    occupancy, b_factor_A2
        As in the file, (n,).
    is_hetero
        Whether the record is HETATM, (n,).
    n_models
        How many models the file holds.
    n_copies
        How many times the file's first assembly repeats some chain; 1 where it has none.
    has_confidences
        Whether the B-factors are a prediction's confidences.
    weight_problems
        What is wrong with occupancies and B-factors, for those who need them.
    """

    path: str
    positions_A: Float64[np.ndarray, "n 3"]
    atom_name: Shaped[np.ndarray, " n"]
    residue_name: Shaped[np.ndarray, " n"]
    chain: Shaped[np.ndarray, " n"]
    residue_number: Int64[np.ndarray, " n"]
    insertion_code: Shaped[np.ndarray, " n"]
    residue_index: Int64[np.ndarray, " n"]
    element: Shaped[np.ndarray, " n"]
    alternative: Shaped[np.ndarray, " n"]
    occupancy: Float64[np.ndarray, " n"]
    b_factor_A2: Float64[np.ndarray, " n"]
    is_hetero: Bool[np.ndarray, " n"]
    n_models: int = 1
    n_copies: int = 1
    has_confidences: bool = False
    weight_problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.atom_name)

    def label(self, atom: int) -> str:
        """Name of one atom for messages: 'CA of ALA A 12'."""
        name, residue, chain = self.atom_name[atom], self.residue_name[atom], self.chain[atom]
        number = self.residue_number[atom]
        return f"{name} of {residue} {chain} {'?' if number == _NO_NUMBER else number}"

    def describe(self) -> str:
        """Say in a few lines which chains, residues, atoms and elements there are."""
        kinds = {
            "chains": self.chain,
            "atom names": self.atom_name,
            "residues": self.residue_name,
            "elements": self.element,
        }
        lines = [f"{what}: {_most_common(values)}" for what, values in kinds.items()]
        return "\n    ".join([f"The file holds {counted(len(self), 'atom')};", *lines])


def decompressed_head(path: Path) -> bytes:
    """First 64 KiB of a file, decompressed where it is gzip's or bzip2's.

    Raises
    ------
    MissingFileError
        If there is no such file.
    MetadataError
        If it is a folder, cannot be read, or its compressed data are damaged.
    """
    head = read_head(
        path, wanted="a structure", for_folder="Give the file itself.", n_bytes=_HEAD_BYTES
    )
    return _decompressed(path, _HEAD_BYTES) if _is_compressed(head) else head


def is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file are none of a text."""
    return _BINARY.search(head) is not None


def coordinate_format(head: bytes) -> CoordinateFormat | None:
    """Tell a PDB from an mmCIF file by its first bytes; None where it is neither."""
    head = head.removeprefix(BOM)
    if is_binary(head):
        return None
    if _MMCIF_BLOCK.match(head):
        return "mmcif"
    return "pdb" if _PDB_RECORD.search(head) else None


def read_atoms(path: Path) -> AtomTable:
    """Read the first model of a PDB or mmCIF file, as it is or compressed.

    Parameters
    ----------
    path
        The file; its content tells its format.

    Returns
    -------
    AtomTable
        Everything in the file: waters, ligands and hydrogens too.

    Raises
    ------
    MissingFileError
        If there is no such file.
    MetadataError
        If it is no such file, is damaged, holds no atoms, or coordinates are not numbers.
    """
    head = decompressed_head(path)
    file_format = coordinate_format(head)
    if file_format is None:
        raise _not_a_structure(path, head)
    text = _decompressed(path, _MAX_TEXT_BYTES)
    read = _read_pdb if file_format == "pdb" else _read_mmcif
    try:
        structure, weight_problems = read(path, text)
        structure.merge_chain_parts()
        return _table(path, structure, _has_confidences(text), weight_problems)
    except MetadataError:
        raise
    except (RuntimeError, ValueError) as error:  # of gemmi, or of names that are not UTF-8
        reason = str(error).strip().split("\n", 1)[0]
        message = f"cannot be read as a structure; it is damaged or cut off: {reason}"
        problem = _problem(path, message, "Copy, download or write it again.")
        raise MetadataError(problem) from error


def _problem(path: Path, message: str, remedy: str, places: Sequence[str] = ()) -> Problem:
    return Problem(message=message, remedy=remedy, file=str(path), places=places)


def _is_compressed(head: bytes) -> bool:
    return head.startswith((b"\x1f\x8b", b"BZh"))


def _decompressed(path: Path, n_bytes: int) -> bytes:
    """Read a file, but no more than `n_bytes` of its (decompressed) content.

    Raises
    ------
    MetadataError
        If it cannot be read or is damaged, or if there is more than any structure needs.
    """
    try:
        with path.open("rb") as file:
            magic = file.peek(3)[:3]
            if magic.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=file) as unzipped:
                    content = unzipped.read(n_bytes)
            elif magic == b"BZh":
                with bz2.BZ2File(file) as unzipped2:
                    content = unzipped2.read(n_bytes)
            else:
                content = file.read(n_bytes)
    except (OSError, EOFError, zlib.error) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        message = f"cannot be read, or its compressed data are damaged or cut off: {reason}"
        raise MetadataError(_problem(path, message, "Copy or download it again.")) from error
    if len(content) == _MAX_TEXT_BYTES:
        message = f"has more than {_MAX_TEXT_BYTES:,} bytes of text"
        raise MetadataError(_problem(path, message, "Check that it is the file you expect."))
    return content


def _not_a_structure(path: Path, head: bytes) -> MetadataError:
    kinds = "PDB, mmCIF or MRC"
    remedy = f"Give a {kinds} file."
    if not head:
        return MetadataError(_problem(path, "is empty", "Copy or download it again."))
    if found := recognise(head):
        message = f"is {found.name}, not a structure"
        return MetadataError(_problem(path, message, found.remedy or remedy))
    if is_binary(head):
        return MetadataError(_problem(path, f"is none of {kinds}", remedy))
    first = head.strip().split(b"\n", 1)[0][:40].decode(errors="replace")
    message = f"is text, but neither PDB nor mmCIF; it begins with {first!r}"
    return MetadataError(_problem(path, message, remedy))


def _read_pdb(path: Path, text: bytes) -> tuple[gemmi.Structure, tuple[Problem, ...]]:
    """Read a PDB file; return what is wrong with its weights, too.

    Raises
    ------
    MetadataError
        Where a coordinate is no number, which gemmi would take as zero.
    """
    bad: dict[bool, list[str]] = {False: [], True: []}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith((b"ATOM", b"HETATM")):
            for is_weight, columns in ((False, _COLUMNS), (True, _WEIGHT_COLUMNS)):
                bad[is_weight] += _bad_fields(line, number, columns)
    if bad[False]:
        message = "coordinates that are not numbers, or not in the format's columns"
        remedy = "Write it again, in the columns of the PDB format."
        raise MetadataError(_problem(path, message, remedy, bad[False]))
    return gemmi.read_pdb_string(text), _weight_problems(path, bad[True])


def _bad_fields(line: bytes, number: int, columns: dict[str, tuple[int, int]]) -> Iterable[str]:
    for name, (start, end) in columns.items():
        field = line[start:end]
        try:
            is_number = abs(float(field)) < np.inf
        except ValueError:
            is_number = False
        if not is_number:
            yield f"line {number}: {name} is {field.decode(errors='replace').strip()!r}"


def _read_mmcif(path: Path, text: bytes) -> tuple[gemmi.Structure, tuple[Problem, ...]]:
    """Read the first block of an mmCIF file; return what is wrong with its weights, too."""
    block = gemmi.cif.read_string(text)[0]
    places = []
    for name, tag in (("occupancy", "occupancy"), ("B-factor", "B_iso_or_equiv")):
        values = list(block.find_values(f"_atom_site.{tag}"))
        if not values:
            places.append(f"there is no _atom_site.{tag}")
        places += [
            f"atom {i}: {name} is {value!r}"
            for i, value in enumerate(values, 1)
            if not np.isfinite(gemmi.cif.as_number(value))
        ]
    return gemmi.make_structure_from_block(block), _weight_problems(path, places)


def _weight_problems(path: Path, places: Sequence[str]) -> tuple[Problem, ...]:
    if not places:
        return ()
    message = "occupancies or B-factors are missing or are no numbers"
    remedy = "Write them into it (1 and 0 where they are not known), or use beads."
    return (_problem(path, message, remedy, places),)


def _table(
    path: Path,
    structure: gemmi.Structure,
    has_confidences: bool,
    weight_problems: tuple[Problem, ...],
) -> AtomTable:
    """Collect the atoms of the first model.

    Raises
    ------
    MetadataError
        If there are none, or positions or numbers of residues are missing.
    """
    rows = [
        (
            (atom.pos.x, atom.pos.y, atom.pos.z, atom.occ, atom.b_iso),
            (atom.name, residue.name, chain.name, atom.element.name),
            (atom.altloc.strip("\0"), residue.seqid.icode.strip()),
            (_number(residue), index, residue.het_flag == "H"),
        )
        for chain, index, residue in _residues(structure)
        for atom in residue
    ]
    if not rows:
        raise MetadataError(_problem(path, "holds no atoms", "Give a file with coordinates."))
    numbers = np.array([row[0] for row in rows], dtype=np.float64)
    texts = np.array([row[1] for row in rows], dtype=np.str_).T
    letters = np.array([row[2] for row in rows], dtype=np.str_).T
    integers = np.array([row[3] for row in rows], dtype=np.int64).T
    table = AtomTable(
        path=str(path),
        positions_A=numbers[:, :3],
        atom_name=texts[0],
        residue_name=texts[1],
        chain=texts[2],
        residue_number=integers[0],
        residue_index=integers[1],
        element=texts[3],
        alternative=letters[0],
        insertion_code=letters[1],
        occupancy=numbers[:, 3],
        b_factor_A2=numbers[:, 4],
        is_hetero=integers[2].astype(bool),
        n_models=len(structure),
        n_copies=_n_copies(structure),
        has_confidences=has_confidences,
        weight_problems=weight_problems,
    )
    raise_problems(_missing(table))
    return table


def _residues(
    structure: gemmi.Structure,
) -> Iterable[tuple[gemmi.Chain, int, gemmi.Residue]]:
    if len(structure) == 0:
        return
    index = 0
    for chain in structure[0]:
        for residue in chain:
            yield chain, index, residue
            index += 1


def _number(residue: gemmi.Residue) -> int:
    number = residue.seqid.num
    return _NO_NUMBER if number is None else int(number)


def _missing(atoms: AtomTable) -> list[Problem]:
    """Find atoms without a position, or whose residue has no number."""
    is_missing = {
        "believable position": ~(np.abs(atoms.positions_A) < _FARTHEST_A).all(axis=1),
        "residue number": atoms.residue_number == _NO_NUMBER,
    }
    return [
        _problem(
            Path(atoms.path),
            f"{counted(int(bad.sum()), 'atom')} of {len(atoms):,} without a {what}",
            "Write it into the file, or leave them out.",
            [atoms.label(int(atom)) for atom in np.flatnonzero(bad)],
        )
        for what, bad in is_missing.items()
        if bad.any()
    ]


def _n_copies(structure: gemmi.Structure) -> int:
    """How many times the first assembly, or strict symmetry, repeats a chain."""
    of_assembly = [
        len(generator.operators)
        for assembly in list(structure.assemblies)[:1]
        for generator in assembly.generators
    ]
    of_symmetry = 1 + sum(not operation.given for operation in structure.ncs)
    return max(1, of_symmetry, *of_assembly)


def _has_confidences(text: bytes) -> bool:
    """Whether a program that predicts structures wrote the file, by what it says of itself."""
    titles = re.search(rb"^TITLE .*(ALPHAFOLD|ESMFOLD|COLABFOLD)", text[:_HEAD_BYTES], re.MULTILINE)
    return titles is not None or b"_ma_qa_metric" in text


def _most_common(values: np.ndarray) -> str:
    counts = Counter(map(str, values)).most_common()
    shown = [f"{value} ({n:,})" for value, n in counts[:_N_MOST_COMMON]]
    n_more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {n_more:,} more" if n_more else "")
