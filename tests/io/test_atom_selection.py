"""The language of selections, on a model whose atoms are counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.structures import pdb_text, small_model

from cryolike.errors import UsageError
from cryolike.io.atom_selection import parse_selection
from cryolike.io.atoms import AtomTable, read_atoms


@pytest.fixture(scope="module")
def atoms(tmp_path_factory: pytest.TempPathFactory) -> AtomTable:
    """Atoms of the small model: 0 to 9 protein, 10 and 11 DNA, 12 calcium, 13 water."""
    path = tmp_path_factory.mktemp("selection") / "small.pdb"
    path.write_text(pdb_text(small_model()))
    table = read_atoms(path)
    by_serial = {tuple(row.position_A): i for i, row in enumerate(small_model())}
    order = np.argsort([by_serial[tuple(position)] for position in table.positions_A.tolist()])
    names = [row.name for row in small_model()]
    assert table.atom_name[order].tolist() == names
    return table


def chosen(atoms: AtomTable, text: str) -> list[int]:
    """Positions in the small model's list of the atoms that a selection takes."""
    by_position = {row.position_A: i for i, row in enumerate(small_model())}
    mask = parse_selection(text)(atoms)
    assert mask.shape == (len(atoms),)
    assert mask.dtype == bool
    return sorted(by_position[tuple(xyz)] for xyz in atoms.positions_A[mask].tolist())


SELECTIONS = {
    "all": list(range(14)),
    "none": [],
    "name CA": [1, 6, 7, 9],
    "name ca": [1, 6, 7, 9],
    "NAME CA": [1, 6, 7, 9],
    "name CA CB": [1, 4, 6, 7, 9],
    "name CA, CB": [1, 4, 6, 7, 9],
    "name == CA": [1, 6, 7, 9],
    "name != CA": [0, 2, 3, 4, 5, 8, 10, 11, 12, 13],
    "name 'CA'": [1, 6, 7, 9],
    "name O5'": [11],
    'name "O5\'"': [11],
    "name C*": [1, 2, 4, 6, 7, 8, 9, 12],
    "name C?": [1, 4, 6, 7, 8, 9, 12],
    "element Ca": [12],
    "element C N": [0, 1, 2, 4, 6, 7, 8, 9],
    "resname ALA GLY": [0, 1, 2, 3, 4, 5, 6],
    "chain A": [0, 1, 2, 3, 4, 5, 6, 12, 13],
    "chain a": [],
    "chain A B": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13],
    "chainID B": [7, 8, 9],
    "segid C": [10, 11],
    "chainid 0": [0, 1, 2, 3, 4, 5, 6, 12, 13],
    "chainid 1 2": [7, 8, 9, 10, 11],
    "resSeq 7": [7, 8],
    "resSeq 2 to 7": [6, 7, 8],
    "resnum 2:7 8": [6, 7, 8, 9],
    "resSeq 2-7": [6, 7, 8],
    "resSeq > 100": [12, 13],
    "resSeq <= 1": [0, 1, 2, 3, 4, 5, 10, 11],
    "resSeq != 1": [6, 7, 8, 9, 12, 13],
    "protein": list(range(10)),
    "nucleic": [10, 11],
    "water": [13],
    "hetero": [12, 13],
    "hydrogen": [5],
    "backbone": [0, 1, 2, 3, 6, 7, 9],
    "sidechain": [4, 5, 8],
    "not hydrogen": [i for i in range(14) if i != 5],
    "protein and not hydrogen": [0, 1, 2, 3, 4, 6, 7, 8, 9],
    "protein && !hydrogen": [0, 1, 2, 3, 4, 6, 7, 8, 9],
    "not protein or water": [10, 11, 12, 13],
    "not (protein or water)": [10, 11, 12],
    "not not water": [13],
    "water or name CA and chain B": [7, 9, 13],
    "(water or name CA) and chain B": [7, 9],
    "water || nucleic": [10, 11, 13],
}


@pytest.mark.parametrize(("text", "expected"), SELECTIONS.items())
def test_selection_takes_what_it_says(atoms: AtomTable, text: str, expected: list[int]) -> None:
    """Each selection takes the atoms counted by hand."""
    assert chosen(atoms, text) == expected


def test_chainid_counts_chains_as_the_file_has_them(tmp_path: Path) -> None:
    """The first chain in the file is number 0, whatever its letter."""
    path = tmp_path / "chains.pdb"
    rows = small_model()
    path.write_text(pdb_text([rows[7], rows[10], rows[0]]))
    table = read_atoms(path)
    for number, chain in enumerate("BCA"):
        assert table.chain[parse_selection(f"chainid {number}")(table)].tolist() == [chain]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a keyword is missing"),
        ("   ", "a keyword is missing"),
        ("name", "a value is missing"),
        ("CA", "'CA' is no keyword"),
        ("name CA and", "a keyword is missing"),
        ("name CA or or all", "'or' is no keyword"),
        ("(name CA", "closing parenthesis"),
        ("name CA)", "not expected"),
        ('name "CA', "not understood"),
        ("name = CA", "not understood"),
        ("//A//CA", "no keyword"),
        ("resid 5", "resSeq"),
        ("index 5", "position"),
        ("chainid A", "'chain A'"),
        ("resSeq", "a number is missing"),
        ("resSeq 5 to", "a value is missing"),
        ("resSeq 1.5", "whole number"),
        pytest.param("(" * 60 + "all" + ")" * 60, "nested too deep", id="deep"),
        pytest.param("name " + "CA " * 10_000, "characters", id="long"),
    ],
)
def test_unclear_selection_says_why(text: str, why: str) -> None:
    """The error says what is wrong and lists the keywords."""
    with pytest.raises(UsageError, match=why) as error:
        parse_selection(text)
    assert "protein" in str(error.value)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in another way than by its own error."""
    try:
        selection = parse_selection(text)
    except UsageError:
        return
    assert selection.text == text


@given(
    st.recursive(
        st.sampled_from(["name CA", "protein", "chain A", "resSeq < 5", "element C", "water"]),
        lambda inner: st.one_of(
            inner.map(lambda a: f"not ({a})"),
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
                lambda three: f"({three[0]}) {three[1]} ({three[2]})"
            ),
        ),
        max_leaves=6,
    )
)
def test_selections_follow_boolean_algebra(atoms: AtomTable, text: str) -> None:
    """A selection and its negation share nothing and leave nothing; De Morgan holds."""
    mask = parse_selection(text)(atoms)
    np.testing.assert_array_equal(parse_selection(f"not ({text})")(atoms), ~mask)
    both = parse_selection(f"not ({text}) or not (chain B)")(atoms)
    np.testing.assert_array_equal(parse_selection(f"not (({text}) and chain B)")(atoms), both)
