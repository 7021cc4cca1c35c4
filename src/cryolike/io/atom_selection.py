"""The language that says which atoms of a model count, such as 'name CA and chain A B'."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from cryolike.errors import Problem, UsageError
from cryolike.io.atoms import AtomTable
from cryolike.io.residues import is_nucleic, is_protein, is_water

__all__ = ["AtomSelection", "parse_selection"]

Mask = np.ndarray
Predicate = Callable[[AtomTable], Mask]

_MAX_LENGTH = 10_000
_MAX_DEPTH = 50

_TOKEN = re.compile(
    r"""[\s,]*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'(?=[\s,)]|$)"""
    r"""|(?P<symbol>\(|\)|&&|\|\||==|!=|<=|>=|<|>|!)|(?P<word>[^\s,()&|=<>!"']+[^\s,()&|=<>!"]*))"""
)
_SYNONYMS = {"&&": "and", "||": "or", "!": "not"}
_COMPARISONS: dict[str, Callable[[Mask, int], Mask]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

_BACKBONE = {"N", "CA", "C", "O"}
_BACKBONE_OF_LAST = {"OXT", "OT1", "OT2"}


@dataclass(frozen=True)
class AtomSelection:
    """A choice of atoms, parsed.

    Parameters
    ----------
    text
        As it was given.
    predicate
        What it says of a table of atoms.
    """

    text: str
    predicate: Predicate

    def __call__(self, atoms: AtomTable) -> Mask:
        """Which atoms are chosen, bool, (n_atoms,)."""
        return self.predicate(atoms)


def parse_selection(text: str) -> AtomSelection:
    """Parse the text of a selection.

    Parameters
    ----------
    text
        Keywords with values, ``name CA CB``, ``resname ALA GLY``, ``element C N``, ``chain A B``
        (the letters in the file), ``chainid 0 1`` (counted from 0), ``resSeq 10 to 20`` (numbers
        in the file; also ``resSeq < 20``); single words, ``all``, ``none``, ``protein``,
        ``nucleic``, ``water``, ``backbone``, ``sidechain``, ``hydrogen``, ``hetero``; ``and``,
        ``or``, ``not`` and parentheses. ``*`` and ``?`` in a value stand for any characters.
        Case matters in names of chains only. ``name CA`` is an alpha carbon, never a calcium ion.

    Returns
    -------
    AtomSelection
        To call with a table of atoms.

    Raises
    ------
    UsageError
        Where it cannot be understood; the message says where.
    """
    if len(text) > _MAX_LENGTH:
        raise _unclear(text[:40] + "…", f"it has {len(text):,} characters")
    parser = _Parser(text)
    predicate = parser.either()
    if parser.token.text:
        raise parser.unclear(f"{parser.token.text!r} is not expected there")
    return AtomSelection(text, predicate)


@dataclass(frozen=True)
class _Token:
    """A word or symbol; quoted words are never keywords. The last token is empty."""

    text: str
    start: int
    is_quoted: bool = False

    @property
    def keyword(self) -> str:
        """In small letters, unless it is quoted."""
        return "" if self.is_quoted else _SYNONYMS.get(self.text, self.text.lower())


class _Parser:
    """Recursive descent: or, and, not, then keywords and parentheses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenise()
        self._depth = 0

    @property
    def token(self) -> _Token:
        return self._tokens[0]

    def unclear(self, why: str) -> UsageError:
        return _unclear(self._text, f"{why} (character {self.token.start + 1})")

    def either(self) -> Predicate:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _any_of(parts)

    def _both(self) -> Predicate:
        parts = [self._negated()]
        while self._take("and"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else _all_of(parts)

    def _negated(self) -> Predicate:
        is_negated = False
        while self._take("not"):
            is_negated = not is_negated
        predicate = self._primary()
        return _none_of(predicate) if is_negated else predicate

    def _primary(self) -> Predicate:
        if self._take("("):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise self.unclear("parentheses are nested too deep")
            predicate = self.either()
            if not self._take(")"):
                raise self.unclear("a closing parenthesis is missing")
            self._depth -= 1
            return predicate
        token, keyword = self.token, self.token.keyword
        if keyword in _WORDS:
            self._next()
            return _WORDS[keyword]
        if token.text == "chainID":  # MDAnalysis, where it means letters
            keyword = "chain"
        if keyword not in _FIELDS and keyword not in _NUMBERS:
            why = f"{token.text!r} is no keyword" if token.text else "a keyword is missing"
            raise self.unclear(_WHY_NOT.get(keyword, why))
        self._next()
        if keyword in _NUMBERS:
            return self._numbers(_NUMBERS[keyword])
        is_negated = self._take("!=")
        if not is_negated:
            self._take("==")
        values = self._values()
        matches = _has_value(_FIELDS[keyword], values)
        return _none_of(matches) if is_negated else matches

    def _numbers(self, field: Callable[[AtomTable], Mask]) -> Predicate:
        """Comparison, or numbers and ranges: 5, 5 to 10, 5:10, 5-10."""
        if (symbol := self.token.keyword) in _COMPARISONS:
            self._next()
            limit = self._integer(self._word())
            return lambda atoms: _COMPARISONS[symbol](field(atoms), limit)
        ranges = []
        while self._is_at_value():
            word = self._word()
            both = re.fullmatch(r"(-?\d+)[:-](-?\d+)", word)
            first, last = both.groups() if both else (word, word)
            if self._take("to"):
                last = self._word()
            ranges.append((self._integer(first), self._integer(last)))
        if not ranges:
            raise self.unclear("a number is missing")
        return lambda atoms: _in_ranges(field(atoms), ranges)

    def _integer(self, word: str) -> int:
        if not re.fullmatch(r"-?\d{1,9}", word):
            raise self.unclear(f"{word!r} is not a whole number; letters of chains are 'chain A'")
        return int(word)

    def _values(self) -> list[str]:
        values = []
        while self._is_at_value():
            values.append(self._word())
        if not values:
            raise self.unclear("a value is missing")
        return values

    def _is_at_value(self) -> bool:
        token = self.token
        if token.is_quoted:
            return True
        is_reserved = token.keyword in {"and", "or", "not", "(", ")"} | _COMPARISONS.keys()
        return bool(token.text) and not is_reserved

    def _word(self) -> str:
        if not self._is_at_value():
            raise self.unclear("a value is missing")
        return self._next().text

    def _take(self, keyword: str) -> bool:
        if self.token.keyword != keyword:
            return False
        self._next()
        return True

    def _next(self) -> _Token:
        return self._tokens.pop(0)

    def _tokenise(self) -> list[_Token]:
        tokens, end = [], 0
        text = self._text.rstrip(", \t\r\n")
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise _unclear(self._text, f"{text[end:].strip()!r} is not understood")
            kind = match.lastgroup or "word"
            tokens.append(_Token(match[kind], match.start(kind), kind in {"single", "double"}))
            end = match.end()
        return [*tokens, _Token("", len(text))]


def _unclear(text: str, why: str) -> UsageError:
    remedy = (
        "Write for example 'name CA', 'all', 'protein and not hydrogen', 'name CA and chain A B', "
        f"'resname ALA GLY or element Fe'. Keywords: {', '.join([*_FIELDS, *_NUMBERS, *_WORDS])}."
    )
    return UsageError(
        Problem(message=f"atom selection {text!r}: {why}", remedy=remedy, kind="usage")
    )


def _any_of(parts: list[Predicate]) -> Predicate:
    return lambda atoms: np.logical_or.reduce([part(atoms) for part in parts])


def _all_of(parts: list[Predicate]) -> Predicate:
    return lambda atoms: np.logical_and.reduce([part(atoms) for part in parts])


def _none_of(part: Predicate) -> Predicate:
    return lambda atoms: ~part(atoms)


def _in_ranges(numbers: Mask, ranges: list[tuple[int, int]]) -> Mask:
    inside: Mask = np.zeros(numbers.shape, dtype=bool)
    for first, last in ranges:
        inside |= (numbers >= first) & (numbers <= last)
    return inside


def _where(values: Mask, is_chosen: Callable[[str], bool]) -> Mask:
    """Ask once for each distinct value."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return np.array([is_chosen(str(value)) for value in distinct], dtype=bool)[inverse.ravel()]


def _has_value(field: Callable[[AtomTable, str], Mask], patterns: list[str]) -> Predicate:
    return lambda atoms: np.logical_or.reduce([field(atoms, pattern) for pattern in patterns])


def _matching(values: Mask, pattern: str) -> Mask:
    capital = pattern.upper()
    return _where(values, lambda value: fnmatchcase(value.upper(), capital))


def _name(atoms: AtomTable, pattern: str) -> Mask:
    chosen = _matching(atoms.atom_name, pattern)
    if pattern.upper() == "CA":
        chosen &= atoms.residue_name != "CA"
    return chosen


def _chain(atoms: AtomTable, pattern: str) -> Mask:
    return _where(atoms.chain, lambda chain: fnmatchcase(chain, pattern))


def _backbone(atoms: AtomTable) -> Mask:
    names = _BACKBONE | _BACKBONE_OF_LAST
    is_backbone: Mask = _protein(atoms) & _where(atoms.atom_name, names.__contains__)
    return is_backbone


def _protein(atoms: AtomTable) -> Mask:
    return _where(atoms.residue_name, is_protein)


def _chain_index(atoms: AtomTable) -> Mask:
    _, first, inverse = np.unique(atoms.chain, return_index=True, return_inverse=True)
    position: Mask = np.argsort(np.argsort(first))
    return position[inverse.ravel()]


_FIELDS: dict[str, Callable[[AtomTable, str], Mask]] = {
    "name": _name,
    "resname": lambda atoms, pattern: _matching(atoms.residue_name, pattern),
    "element": lambda atoms, pattern: _matching(atoms.element, pattern),
    "chain": _chain,
    "segid": _chain,
}
_NUMBERS: dict[str, Callable[[AtomTable], Mask]] = {
    "chainid": _chain_index,
    "resseq": lambda atoms: atoms.residue_number,
    "resnum": lambda atoms: atoms.residue_number,
}
_WORDS: dict[str, Predicate] = {
    "all": lambda atoms: np.ones(len(atoms), dtype=bool),
    "none": lambda atoms: np.zeros(len(atoms), dtype=bool),
    "protein": _protein,
    "nucleic": lambda atoms: _where(atoms.residue_name, is_nucleic),
    "water": lambda atoms: _where(atoms.residue_name, is_water),
    "backbone": _backbone,
    "sidechain": lambda atoms: _protein(atoms) & ~_backbone(atoms),
    "hydrogen": lambda atoms: _where(atoms.element, {"H", "D"}.__contains__),
    "hetero": lambda atoms: atoms.is_hetero,
}
_WHY_NOT = {
    "resid": "resid is a position in MDTraj and the file's number in MDAnalysis; write "
    "'resSeq 10 to 20' for numbers in the file",
    "index": "atoms cannot be chosen by their position",
}
