"""Damage that happens to files, and damage that nobody would think of."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from cryolike.testing import nasty
from cryolike.testing.cs import npy_bytes

__all__ = ["damage_cs", "damage_csg", "damage_mrc", "damage_npz", "damage_star", "damaged_bytes"]

_MAX_BYTES = 2**18
"""No damage makes a file larger than this."""

_REPEATS = (2, 10, 300, 20_000)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# Damage to any file

Damage = Callable[[Random, bytes], bytes]

_gzip = partial(gzip.compress, mtime=0)
"""Compression that does not depend on the time of day."""


def damaged_bytes(random: Random, content: bytes) -> bytes:
    """Damage any file once: flip, overwrite, cut, insert, delete, repeat or swap bytes.

    Parameters
    ----------
    random
        Decides what happens where.
    content
        The file.

    Returns
    -------
    bytes
        At most 256 kB.
    """
    return random.choice(_ANYWHERE)(random, content)[:_MAX_BYTES]


def _range(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randint(0, len(content))
    longest = random.choice((1, 4, 64, len(content)))
    return start, min(len(content), start + random.randint(0, max(1, longest)))


def _flip_bit(random: Random, content: bytes) -> bytes:
    start, _ = _range(random, content)
    flipped = bytes(byte ^ (1 << random.randrange(8)) for byte in content[start : start + 1])
    return content[:start] + flipped + content[start + 1 :]


def _overwrite(random: Random, content: bytes) -> bytes:
    start, stop = _range(random, content)
    filler = random.choice((b"\0", b"\xff", b" ", b"\n", b"9", bytes([random.randrange(256)])))
    return content[:start] + filler * (stop - start) + content[stop:]


def _cut(random: Random, content: bytes) -> bytes:
    start, _ = _range(random, content)
    return random.choice((content[:start], content[:start], content[start:]))


def _insert(random: Random, content: bytes) -> bytes:
    start, _ = _range(random, content)
    value = _bytes(random.choice(nasty.VALUES))
    junk = bytes(random.randrange(256) for _ in range(random.randint(1, 8)))
    return content[:start] + random.choice((value, junk)) + content[start:]


def _delete(random: Random, content: bytes) -> bytes:
    start, stop = _range(random, content)
    return content[:start] + content[stop:]


def _repeat(random: Random, content: bytes) -> bytes:
    start, stop = _range(random, content)
    n_possible = max(1, (_MAX_BYTES - len(content)) // max(1, stop - start))
    n_times = min(random.choice(_REPEATS), n_possible)
    return content[:start] + content[start:stop] * n_times + content[stop:]


def _swap(random: Random, content: bytes) -> bytes:
    a, b, c, d = sorted(random.randint(0, len(content)) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


_ANYWHERE: tuple[Damage, ...] = (_flip_bit, _overwrite, _cut, _insert, _delete, _repeat, _swap)


def _several(random: Random, content: bytes, ways: Sequence[Damage]) -> bytes:
    """Damage a file a few times."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        content = random.choice(ways)(random, content)[:_MAX_BYTES]
    return content


# Damage to text

_VALUE = re.compile(rb"[^ \t\r\n]+")
_LINE = re.compile(rb"[^\n]+")


def damage_star(random: Random, content: bytes) -> bytes:
    """Damage a STAR file: lines and values lost, repeated, swapped, and replaced by nasty ones.

    Parameters
    ----------
    random
        Decides what happens where.
    content
        The file.

    Returns
    -------
    bytes
        At most 256 kB.
    """
    return _several(random, content, (*_IN_TEXT, damaged_bytes))


def _change_lines(random: Random, content: bytes) -> bytes:
    """Remove, repeat, or add a line, or swap two."""
    lines = content.split(b"\n")
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    what = random.randrange(4)
    if what == 0:
        del lines[i]
    elif what == 1:
        n_possible = max(1, (_MAX_BYTES - len(content)) // (len(lines[i]) + 1))
        lines[i:i] = [lines[j]] * min(random.choice(_REPEATS), n_possible)
    elif what == 2:
        lines.insert(i, _bytes(random.choice(nasty.STRAY_LINES)))
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def _change_value(random: Random, content: bytes) -> bytes:
    """Replace one value by a nasty one, by another value, or by nothing."""
    values = list(_VALUE.finditer(content))
    if not values:
        return content
    chosen, other = random.choice(values), random.choice(values)
    value = _bytes(random.choice(nasty.VALUES))
    new = random.choice((value, value, value, other[0], b"", chosen[0] + value, value + chosen[0]))
    return content[: chosen.start()] + new + content[chosen.end() :]


def _change_column(random: Random, content: bytes) -> bytes:
    """Replace one value of many lines by nasty ones."""
    lines = content.split(b"\n")
    n_values = random.choice([len(_VALUE.findall(line)) for line in lines])
    place = random.randrange(max(1, n_values))
    value = _bytes(random.choice(nasty.VALUES))
    for i, line in enumerate(lines):
        values = list(_VALUE.finditer(line))
        if len(values) == n_values > place:
            start, end = values[place].span()
            lines[i] = line[:start] + value + line[end:]
    return b"\n".join(lines)


def _swap_values(random: Random, content: bytes) -> bytes:
    values = list(_VALUE.finditer(content))
    if len(values) < 2:
        return content
    a, b = sorted(random.sample(values, 2), key=lambda value: value.start())
    return content[: a.start()] + b[0] + content[a.end() : b.start()] + a[0] + content[b.end() :]


_IN_TEXT: tuple[Damage, ...] = (
    _change_lines,
    _change_lines,
    _change_value,
    _change_value,
    _change_column,
    _swap_values,
)


def damage_csg(random: Random, content: bytes) -> bytes:
    """Damage a .csg file: as any text, and with YAML that breaks parsers.

    Parameters
    ----------
    random
        Decides what happens where.
    content
        The file.

    Returns
    -------
    bytes
        At most 256 kB.
    """
    return _several(random, content, (*_IN_TEXT, _insert_yaml, _insert_yaml, damaged_bytes))


def _insert_yaml(random: Random, content: bytes) -> bytes:
    """Replace one value, or a line, by YAML."""
    spans = [
        value.span() for value in (_VALUE if random.random() < 0.7 else _LINE).finditer(content)
    ]
    start, stop = random.choice(spans or [(0, len(content))])
    return content[:start] + _bytes(random.choice(nasty.YAML)) + content[stop:]


# Damage to .cs files


def damage_cs(random: Random, content: bytes) -> bytes:
    """Damage a .cs file: its data, and above all what its header says of them.

    Parameters
    ----------
    random
        Decides what happens where.
    content
        The file.

    Returns
    -------
    bytes
        At most 256 kB. Some ask for more memory than there is, some for a program to be run.
    """
    ways = (_change_fields, _change_fields, _change_npy_header, _change_cs_data, damaged_bytes)
    return _several(random, content, ways)


def _split_npy(content: bytes) -> tuple[bytes, bytes, int]:
    """Split a NumPy file into header text, data and version; no text where it is none."""
    if not content.startswith(b"\x93NUMPY") or len(content) < 12:
        return b"", content, 1
    version = content[6]
    n_length = 2 if version == 1 else 4
    start = 8 + n_length
    stop = start + int.from_bytes(content[8:start], "little")
    return content[start:stop], content[stop:], version if version in (1, 2, 3) else 1


def _change_fields(random: Random, content: bytes) -> bytes:
    """Change names and types of fields, and the shape, in the header."""
    raw, data, version = _split_npy(content)
    header = raw.decode("latin-1")
    entries = list(re.finditer(r"\('([^']*)', ([^()]*(?:\([^()]*\))?)\)", header))
    what = random.randrange(4)
    if what == 0:
        header = re.sub(r"'shape': \([^()]*\)", f"'shape': {random.choice(nasty.SHAPES)}", header)
    elif entries:
        entry = random.choice(entries)
        name, of_type = entry[1], entry[2]
        if what == 1:
            name = random.choice(nasty.FIELDS)
        if what >= 2:
            of_type = random.choice(nasty.TYPES)
        header = header[: entry.start()] + f"('{name}', {of_type})" + header[entry.end() :]
    if random.random() < 0.3:  # bytes enough for whatever the header says now
        data = (data or b"\0") * random.choice((2, 50))
    return npy_bytes(header.strip(), data, version=version)


def _change_npy_header(random: Random, content: bytes) -> bytes:
    """Put nonsense into the header, or a wrong length or version before it."""
    raw, data, version = _split_npy(content)
    header = raw.decode("latin-1").strip()
    what = random.randrange(4)
    if what == 0:
        return npy_bytes(random.choice(nasty.HEADERS), data, version=random.choice((1, 2, 3)))
    if what == 1:
        text = random.choice(nasty.VALUES)
        at = random.randint(0, len(header))
        return npy_bytes(header[:at] + text + header[at:], data, version=version)
    if what == 2:
        length = struct.pack("<I", random.choice((0, 1, 2**16, 2**24, 2**31, 2**32 - 1)))
        return content[:6] + bytes([random.choice((2, 3)), 0]) + length + content[12:]
    return content[:6] + bytes(random.choice((0, 1, 2, 3, 4, 255)) for _ in range(2)) + content[8:]


def _change_cs_data(random: Random, content: bytes) -> bytes:
    """Put nasty numbers among the data, or a pickle in their place."""
    raw, data, version = _split_npy(content)
    if random.random() < 0.2:
        header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
        return npy_bytes(header, nasty.PICKLE, version=1)
    at = random.randint(0, len(data))
    value = random.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -1.0))
    number = struct.pack(random.choice(("<f", "<d")), value)
    number = random.choice((number, number, b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
    text = raw.decode("latin-1").strip()
    return npy_bytes(text, data[:at] + number + data[at + len(number) :], version=version)


# Damage to MRC files

_HEADER_BYTES = 1024
_WORDS_THAT_MATTER = (*range(10), *range(16, 19), 22, 23, 38, 39, 52, 53)


def damage_mrc(random: Random, content: bytes) -> bytes:
    """Damage an MRC file: header words, data, and its compression.

    Parameters
    ----------
    random
        Decides what happens where.
    content
        The file, compressed or not.

    Returns
    -------
    bytes
        At most 256 kB, which may expand to a few megabytes.
    """
    pack: Callable[[bytes], bytes] = bytes
    if content.startswith(b"\x1f\x8b"):
        content, pack = gzip.decompress(content), _gzip
    elif content.startswith(b"BZh"):
        content, pack = bz2.decompress(content), bz2.compress
    is_bomb = random.random() < 0.05
    content = _several(random, content, (_change_word, _change_word, _change_float, damaged_bytes))
    if is_bomb:
        content, pack = content + bytes(2**22), random.choice((_gzip, bz2.compress))
    packed = pack(content)
    if pack is not bytes and random.random() < 0.5:
        packed = damaged_bytes(random, packed)
    if random.random() < 0.02:
        packed = _gzip(packed)
    return packed


def _change_word(random: Random, content: bytes) -> bytes:
    """Write an integer to the header."""
    matters = random.random() < 0.8
    at = 4 * (random.choice(_WORDS_THAT_MATTER) if matters else random.randrange(256))
    word = struct.pack(random.choice("<<>") + "i", random.choice(nasty.WORDS))
    return content[:at] + word + content[at + 4 :]


def _change_float(random: Random, content: bytes) -> bytes:
    """Write a nasty number to the cell, or among the pixels."""
    last = max(0, (len(content) - _HEADER_BYTES) // 4 - 1)
    at = 40 + 4 * random.randrange(6)
    if random.random() < 0.3:
        at = _HEADER_BYTES + 4 * random.randint(0, last)
    value = random.choice((float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 3e38, 1e-45))
    word = struct.pack(random.choice("<<>") + "f", value)
    return content[:at] + word + content[at + 4 :]


# Damage to .npz files


def damage_npz(random: Random, content: bytes) -> bytes:
    """Damage a .npz file: the archive, or one of the arrays in it.

    Parameters
    ----------
    random
        Decides what happens where.
    content
        The file, undamaged.

    Returns
    -------
    bytes
        The damaged file.
    """
    if random.random() < 0.3:
        return _several(random, content, (damaged_bytes,))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    what = random.randrange(4)
    if what == 0:
        del members[name]
    elif what == 1:
        members[name] = members[random.choice(sorted(members))]
    elif what == 2:
        members[name] = damage_cs(random, members[name])
    else:
        members[name] = _nasty_array(random)
    packed = io.BytesIO()
    compression = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(packed, "w") as archive:
        for member, array in members.items():
            archive.writestr(zipfile.ZipInfo(member), array, compression)
    return packed.getvalue()


def _nasty_array(random: Random) -> bytes:
    """Write an array of a few equal values, of some type and shape."""
    of_type, value = random.choice(nasty.ARRAY_ITEMS)
    shape, n_items = random.choice(
        (("()", 1), ("(0,)", 0), ("(1,)", 1), ("(2,)", 2), ("(2, 2)", 4))
    )
    header = f"{{'descr': '{of_type}', 'fortran_order': False, 'shape': {shape}}}"
    return npy_bytes(header, value * n_items)
