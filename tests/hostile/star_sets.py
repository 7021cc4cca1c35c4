"""Small sets described by a STAR file, and ways to change them."""

from __future__ import annotations

from typing import Any

from tests.builders import SetBuilder
from tests.hostile.cases import (
    Make,
    Source,
    star_source,
)

FIRST, SECOND = "Particles/stack_02.mrcs", "Particles/stack_01.mrcs"


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 123456\n"


WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"


def stars(build: SetBuilder, **keywords: Any) -> Source:
    """STAR file of 5 rows, 3 of `Particles/stack_02.mrcs` and 2 of `Particles/stack_01.mrcs`.

    Their lines are 21 to 25; a further column of particles or optics moves them down by one.
    """
    return star_source(build.relion((3, 2), **keywords).path)


def edited(*changes: tuple[str, str], **keywords: Any) -> Make:
    """Make the set of `stars` with changes to the text of its STAR file."""

    def make(build: SetBuilder) -> Source:
        path = build.relion((3, 2), **keywords).path
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text, newline="")
        return star_source(path)

    return make


def written(content: bytes) -> Make:
    """Make a file particles.star of these bytes."""

    def make(build: SetBuilder) -> Source:
        path = build.folder / "particles.star"
        path.write_bytes(content)
        return star_source(path)

    return make


def with_column(label: str, *values: object, **keywords: object) -> Make:
    """Make the set of `stars` with other values in a column of the particles."""
    return lambda build: stars(build, columns={label: list(values)}, **keywords)


def with_optics(**columns: object) -> Make:
    """Make the set of `stars` with other values in the optics table."""
    return lambda build: stars(build, optics={f"rln{k}": [v] for k, v in columns.items()})


def with_names(*names: str) -> Make:
    """Make a set of rows that name these images, where only the stacks of `stars` are there."""

    def make(build: SetBuilder) -> Source:
        build.relion((3, 2))
        return star_source(build.star(names))

    return make


def without(*labels: str) -> Make:
    """Make the set of `stars` without some labels."""
    return lambda build: stars(build, without=labels)


def one_missing(build: SetBuilder) -> Source:
    """Make a set without one of its stacks."""
    built = build.relion((3, 2))
    built.stacks[1].unlink()
    return star_source(built.path)


GROUP = "1 300 2.7 0.1 2.0"
