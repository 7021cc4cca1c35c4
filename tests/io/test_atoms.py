"""Atoms of coordinate files that the tests write by hand, good and damaged."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.structures import MMCIF_COLUMNS, Row, mmcif_text, pdb_text, small_model

from cryolike.errors import MetadataError, MissingFileError
from cryolike.io import atoms as atoms_module
from cryolike.io.atoms import AtomTable, coordinate_format, is_binary, read_atoms

WRITERS = {"pdb": pdb_text, "cif": mmcif_text}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
}


def written(folder: Path, text: str | bytes, name: str = "model.pdb") -> Path:
    """Write a file; return its path."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows_of(atoms: AtomTable) -> set[Row]:
    """Turn a table back into the rows it came from."""
    return {
        Row(
            name=str(atoms.atom_name[i]),
            residue=str(atoms.residue_name[i]),
            chain=str(atoms.chain[i]),
            number=int(atoms.residue_number[i]),
            position_A=tuple(atoms.positions_A[i].tolist()),
            element=str(atoms.element[i]),
            occupancy=round(float(atoms.occupancy[i]), 4),
            b_factor_A2=round(float(atoms.b_factor_A2[i]), 4),
            alternative=str(atoms.alternative[i]) or " ",
            insertion=str(atoms.insertion_code[i]) or " ",
            is_hetero=bool(atoms.is_hetero[i]),
        )
        for i in range(len(atoms))
    }


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("file_format", WRITERS)
def test_every_atom_is_read_as_it_was_written(
    tmp_path: Path, file_format: str, ending: str
) -> None:
    """Both formats, compressed or not, give back all columns of all atoms."""
    rows = [
        *small_model(),
        Row("CA", "SER", "D", 52, (1.0, -2.0, 3.125), "C", 0.25, 33.5, "A", "B"),
        Row("CA", "SER", "D", 52, (1.5, -2.0, 3.125), "C", 0.75, 31.5, "B", "B"),
    ]
    content = COMPRESSORS[ending](WRITERS[file_format](rows).encode())
    path = written(tmp_path, content, f"model.{file_format}{ending}")
    atoms = read_atoms(path)
    assert rows_of(atoms) == set(rows)
    assert (atoms.n_models, atoms.n_copies, atoms.weight_problems) == (1, 1, ())


def test_content_tells_the_format_whatever_the_name(tmp_path: Path) -> None:
    """An mmCIF file named .pdb is read as mmCIF, a PDB file without header as PDB."""
    path = written(tmp_path, mmcif_text(small_model()), "model.pdb")
    assert len(read_atoms(path)) == len(small_model())
    without_header = "\n".join(row.pdb(1) for row in small_model())
    assert len(read_atoms(written(tmp_path, without_header, "x"))) == len(small_model())


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    """Lines that end in CR LF hold the same atoms."""
    for file_format, write in WRITERS.items():
        text = write(small_model()).replace("\n", "\r\n")
        path = written(tmp_path, text, f"model.{file_format}")
        assert rows_of(read_atoms(path)) == set(small_model())


def test_chains_split_by_waters_are_joined(tmp_path: Path) -> None:
    """Waters of a chain at the end of the file belong to the chain, in both formats."""
    tables = [
        read_atoms(written(tmp_path, write(small_model()), "m")) for write in WRITERS.values()
    ]
    for atoms in tables:
        starts = atoms.chain[np.append(True, atoms.chain[1:] != atoms.chain[:-1])]
        assert starts.tolist() == ["A", "B", "C"]
    np.testing.assert_array_equal(tables[0].positions_A, tables[1].positions_A)


def test_models_are_counted_and_the_first_is_read(tmp_path: Path) -> None:
    """Of three models of two atoms, two atoms are read."""
    rows = small_model()[:2]
    models = [
        f"MODEL     {i:>4}\n" + "\n".join(replace(row, number=i).pdb(1) for row in rows)
        for i in (1, 2, 3)
    ]
    atoms = read_atoms(written(tmp_path, "\nENDMDL\n".join([*models, "END\n"])))
    assert atoms.n_models == 3
    assert rows_of(atoms) == set(rows)


def test_copies_of_an_assembly_are_counted(tmp_path: Path) -> None:
    """REMARK 350 with two operators means that each chain is there twice."""
    remark = (
        "REMARK 350 BIOMOLECULE: 1\n"
        "REMARK 350 AUTHOR DETERMINED BIOLOGICAL UNIT: DIMERIC\n"
        "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A\n"
        "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000\n"
        "REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        9.00000\n"
        "REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000\n"
    )
    text = pdb_text(small_model()).replace("HEADER    TEST\n", f"HEADER    TEST\n{remark}")
    assert read_atoms(written(tmp_path, text)).n_copies == 2


def test_symmetry_to_be_applied_is_counted(tmp_path: Path) -> None:
    """MTRIX records that are not marked as given in the file mean further copies."""
    matrix = "".join(
        f"MTRIX{row}   {n}{values}{end}\n"
        for n, end in ((1, "    1"), (2, ""), (3, ""))
        for row, values in enumerate(
            (
                "  1.000000  0.000000  0.000000        0.00000",
                "  0.000000  1.000000  0.000000        0.00000",
                f"  0.000000  0.000000  1.000000       {9 * n:>2}.00000",
            ),
            1,
        )
    )
    text = pdb_text(small_model()).replace("HEADER    TEST\n", f"HEADER    TEST\n{matrix}")
    assert read_atoms(written(tmp_path, text)).n_copies == 3


@pytest.mark.parametrize("field", ["     abc", "********", "     nan", "        ", "     inf"])
def test_coordinates_that_are_no_numbers_are_an_error(tmp_path: Path, field: str) -> None:
    """They are not taken as zero: the error names the line and the column."""
    lines = pdb_text(small_model()).splitlines()
    lines[3] = lines[3][:38] + field + lines[3][46:]
    with pytest.raises(MetadataError, match="line 4: y is"):
        read_atoms(written(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("value", ["?", ".", "abc", "nan", "1e200"])
def test_mmcif_coordinates_that_are_no_numbers_are_an_error(tmp_path: Path, value: str) -> None:
    """The error names the atom."""
    text = mmcif_text(small_model()).replace(" 2.500 1.000 3.000", f" 2.500 {value} 3.000")
    with pytest.raises(MetadataError, match="C of ALA A 1"):
        read_atoms(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new"), [("  1.00 15.00", "       15.00"), ("  1.00 15.00", "  1.00 *****"), (None, "")]
)
def test_missing_weights_of_a_pdb_file_are_told(tmp_path: Path, old: str | None, new: str) -> None:
    """Occupancies and B-factors that are not there are no zeros; beads do not need them."""
    text = pdb_text(small_model())
    lines = [line[:54] for line in text.splitlines()]
    changed = "\n".join(lines) if old is None else text.replace(old, new)
    atoms = read_atoms(written(tmp_path, changed))
    assert "line" in str(atoms.weight_problems[0])
    assert len(atoms) == len(small_model())


def test_missing_weights_of_an_mmcif_file_are_told(tmp_path: Path) -> None:
    """A question mark, and a column that is not there."""
    atoms = read_atoms(written(tmp_path, mmcif_text(small_model()).replace(" 15.00 ", " ? ")))
    assert "atom 4: B-factor is '?'" in str(atoms.weight_problems[0])
    text = mmcif_text(small_model()).replace("_atom_site.B_iso_or_equiv", "_atom_site.other")
    atoms = read_atoms(written(tmp_path, text))
    assert "there is no _atom_site.B_iso_or_equiv" in str(atoms.weight_problems[0])


def test_predictions_are_recognised(tmp_path: Path) -> None:
    """AlphaFold's files say what they are."""
    title = "TITLE     ALPHAFOLD MONOMER V2.0 PREDICTION FOR X\n"
    assert read_atoms(written(tmp_path, title + pdb_text(small_model()))).has_confidences
    metric = "_ma_qa_metric.name pLDDT\nloop_"
    text = mmcif_text(small_model()).replace("loop_", metric)
    assert read_atoms(written(tmp_path, text)).has_confidences
    assert not read_atoms(written(tmp_path, pdb_text(small_model()))).has_confidences


DAMAGED = {
    "empty": (b"", "is empty"),
    "text": (b"Dear all,\nplease find attached\n", "begins with 'Dear all,'"),
    "web page": (b"<!DOCTYPE html><html>not found</html>", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "binary": (bytes(range(256)) * 8, "none of PDB, mmCIF or MRC"),
    "twice compressed": (gzip.compress(gzip.compress(b"ATOM")), "gzip-compressed"),
    "cut gzip": (gzip.compress(pdb_text(small_model()).encode())[:-40], "cut off"),
    "cut bz2": (bz2.compress(pdb_text(small_model()).encode())[:-40], "cut off"),
    "damaged gzip": (
        gzip.compress(pdb_text(small_model()).encode())[:-8] + b"\0" * 8,
        "damaged",
    ),
    "no atoms": (b"HEADER    X\nREMARK   1 NOTHING\nEND\n", "holds no atoms"),
    "no atoms in mmCIF": (b"data_x\n_cell.length_a 3.0\n", "holds no atoms"),
    "empty block": (b"data_x\n", "holds no atoms"),
    "cut mmCIF": (mmcif_text(small_model())[:-60].encode(), "damaged or cut off"),
    "short line": (pdb_text(small_model())[:60].encode(), "coordinates"),
    "name that is not UTF-8": (
        pdb_text(small_model()).encode().replace(b" CB ", b" C\xbe "),
        "damaged",
    ),
    "no residue numbers": (
        mmcif_text(small_model())
        .replace(" 8 ? -4.0", " . ? -4.0")
        .replace(" 7 B", " ? B")
        .encode(),
        r"CA of TRP B \?",
    ),
    "JSON": (b'{"data_1ABC": {}}', "neither PDB nor mmCIF"),
}


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_says_what_is_wrong(tmp_path: Path, content: bytes, why: str) -> None:
    """One error with the file's name and a remedy."""
    path = written(tmp_path, content)
    with pytest.raises(MetadataError, match=why) as error:
        read_atoms(path)
    assert str(path) in str(error.value)
    assert "→" in str(error.value)


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    """There is no such file; a folder is none."""
    with pytest.raises(MissingFileError, match="no such file"):
        read_atoms(tmp_path / "none.pdb")
    with pytest.raises(MetadataError, match="folder"):
        read_atoms(tmp_path)


def test_text_without_end_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed file that expands to more than any structure is refused, and not expanded."""
    monkeypatch.setattr(atoms_module, "_MAX_TEXT_BYTES", 100_000)
    content = gzip.compress((small_model()[0].pdb(1) + "\n").encode() * 2_000)
    with pytest.raises(MetadataError, match="more than 100,000 bytes"):
        read_atoms(written(tmp_path, content))


def test_heads_are_told_apart() -> None:
    """Text of either format, other text, and binary data."""
    assert coordinate_format(pdb_text(small_model()).encode()) == "pdb"
    assert coordinate_format(b"\n# comment\n\ndata_X\n") == "mmcif"
    assert coordinate_format(b"\xef\xbb\xbfDATA_x\n") == "mmcif"
    assert coordinate_format(b"some atoms: ATOM\n") is None
    assert coordinate_format(b"ATOM\0") is None
    assert is_binary(b"\0\0\0\x40")
    assert not is_binary("Å\r\n\t\f".encode())


def test_description_counts_what_there_is(tmp_path: Path) -> None:
    """Chains, names, residues and elements with their counts, the most common ones first."""
    text = read_atoms(written(tmp_path, pdb_text(small_model()))).describe()
    for part in ("14 atoms", "A (9)", "CA (5)", "ALA (6)", "C (7)"):
        assert part in text
    many = [replace(small_model()[1], name=f"C{i}", number=i) for i in range(20)]
    assert "and 8 more" in read_atoms(written(tmp_path, pdb_text(many))).describe()


def test_columns_of_the_hand_written_file_are_the_dictionary_s() -> None:
    """The tests' own mmCIF writer has as many columns as values."""
    assert len(small_model()[0].mmcif(1).split()) == len(MMCIF_COLUMNS)
