"""Coordinate files in PDB and mmCIF format, written by hand from one list of atoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MMCIF_COLUMNS", "Row", "mmcif_text", "pdb_text", "small_model"]

MMCIF_COLUMNS = [
    "group_PDB",
    "id",
    "type_symbol",
    "label_atom_id",
    "label_alt_id",
    "label_comp_id",
    "label_asym_id",
    "label_entity_id",
    "label_seq_id",
    "pdbx_PDB_ins_code",
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
    "occupancy",
    "B_iso_or_equiv",
    "auth_seq_id",
    "auth_asym_id",
    "pdbx_PDB_model_num",
]


@dataclass(frozen=True)
class Row:
    """One atom of a file."""

    name: str
    residue: str
    chain: str
    number: int
    position_A: tuple[float, float, float]
    element: str
    occupancy: float = 1.0
    b_factor_A2: float = 0.0
    alternative: str = " "
    insertion: str = " "
    is_hetero: bool = False

    def pdb(self, serial: int) -> str:
        """One line of a PDB file."""
        record = "HETATM" if self.is_hetero else "ATOM"
        # names of elements of one letter begin in the second of four columns
        name = f" {self.name:<3}" if len(self.element) == 1 and len(self.name) < 4 else self.name
        x, y, z = self.position_A
        return (
            f"{record:<6}{serial:>5} {name:<4}{self.alternative}{self.residue:>3} {self.chain}"
            f"{self.number:>4}{self.insertion}   {x:8.3f}{y:8.3f}{z:8.3f}{self.occupancy:6.2f}"
            f"{self.b_factor_A2:6.2f}          {self.element.upper():>2}"
        )

    def mmcif(self, serial: int) -> str:
        """One line of an mmCIF file's loop of atoms."""
        x, y, z = self.position_A
        values = [
            "HETATM" if self.is_hetero else "ATOM",
            serial,
            self.element,
            f'"{self.name}"',
            self.alternative.replace(" ", "."),
            self.residue,
            "L" + self.chain,  # the file's own letters, not the author's
            1,
            serial,
            self.insertion.replace(" ", "?"),
            f"{x:.3f}",
            f"{y:.3f}",
            f"{z:.3f}",
            f"{self.occupancy:.2f}",
            f"{self.b_factor_A2:.2f}",
            self.number,
            self.chain,
            1,
        ]
        return " ".join(map(str, values))


def pdb_text(rows: Iterable[Row]) -> str:
    """Write a PDB file."""
    lines = [row.pdb(serial) for serial, row in enumerate(rows, 1)]
    return "\n".join(["HEADER    TEST", *lines, "END", ""])


def mmcif_text(rows: Iterable[Row]) -> str:
    """Write an mmCIF file."""
    columns = [f"_atom_site.{name}" for name in MMCIF_COLUMNS]
    lines = [row.mmcif(serial) for serial, row in enumerate(rows, 1)]
    return "\n".join(["# written by hand", "data_test", "loop_", *columns, *lines, "#", ""])


def small_model() -> list[Row]:
    """Two chains of protein, one nucleotide, hydrogens, a calcium ion and a water."""
    return [
        Row("N", "ALA", "A", 1, (0.5, 1.0, 2.0), "N", b_factor_A2=12.5),
        Row("CA", "ALA", "A", 1, (1.5, 1.25, 2.0), "C", b_factor_A2=10.0),
        Row("C", "ALA", "A", 1, (2.5, 1.0, 3.0), "C", b_factor_A2=10.0),
        Row("O", "ALA", "A", 1, (2.5, 0.0, 3.5), "O", b_factor_A2=15.0),
        Row("CB", "ALA", "A", 1, (1.0, 2.5, 1.0), "C", b_factor_A2=10.0),
        Row("HA", "ALA", "A", 1, (1.75, 0.5, 1.5), "H", b_factor_A2=20.0),
        Row("CA", "GLY", "A", 2, (5.0, 2.0, -1.0), "C", occupancy=0.5),
        Row("CA", "TRP", "B", 7, (-4.0, -3.0, 6.0), "C"),
        Row("CG", "TRP", "B", 7, (-5.0, -3.5, 6.5), "C"),
        Row("CA", "TRP", "B", 8, (-4.5, 3.0, 8.0), "C"),
        Row("P", "DA", "C", 1, (9.0, 9.0, -9.0), "P", b_factor_A2=60.0),
        Row("O5'", "DA", "C", 1, (8.5, 8.0, -8.0), "O", b_factor_A2=60.0),
        Row("CA", "CA", "A", 101, (7.0, -7.0, 0.0), "Ca", is_hetero=True),
        Row("O", "HOH", "A", 201, (-8.0, 8.0, 8.0), "O", is_hetero=True),
    ]
