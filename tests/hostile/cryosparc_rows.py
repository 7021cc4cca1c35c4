""".cs files whose values cannot be, or which name what is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Rejected,
    Source,
    cryosparc_source,
)
from tests.hostile.cryosparc_sets import (
    NAMES,
    NUMBERS,
    UID,
    fields,
    put_stacks,
    single,
)

from cryolike.errors import InputError, MissingFileError


def stacks_missing(build: SetBuilder) -> Source:
    """Make an exported set, in which '>' means beside it, without one of its stacks."""
    path = build.cryosparc([f">{name}" for name in NAMES], NUMBERS)
    build.stack("J1/a.mrc", build.noise(3))
    return cryosparc_source(path)


def all_at_once(build: SetBuilder) -> Source:
    """Make a set with nine faults."""
    put_stacks(build)
    (build.folder / "J1/c.mrc").write_bytes(b"")
    names = [*NAMES, "J1/c.mrc", "J1/gone.mrc", "", "J1/a.mrc"]
    n = len(names)
    values: dict[str, Any] = {
        "ctf__accel_kv": single([300_000, *[300] * (n - 1)]),
        "ctf__df1_A": single([12_000, np.nan, *[12_000] * (n - 2)]),
        "ctf__amp_contrast": single([0.1, 0.1, 10, *[0.1] * (n - 3)]),
        "blob__sign": single([*[1] * 3, 0, *[1] * (n - 4)]),
        "blob__psize_A": single([*[2] * 4, 3, *[2] * (n - 5)]),
    }
    idx = [*NUMBERS, 0, 0, 0, 3]
    return cryosparc_source(build.cryosparc(names, idx, **values))


REJECTED = [
    Rejected(
        id="62-nan-in-defocus",
        make=fields(ctf__df2_A=single([9_500, np.nan, 9_500, np.inf, 9_500])),
        says=("ctf/df2_A", "2 of 5 rows", f"row 1 (uid {UID + 1}): nan", f"row 3 (uid {UID + 3})"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="68-voltage-in-volts",
        make=fields(ctf__accel_kv=single([300_000] * 5)),
        says=("ctf/accel_kv is outside 10 to 1,500 kV (5 of 5 rows)", f"(uid {UID}): 300000.0"),
        remedy="Voltages are in kV",
    ),
    Rejected(
        id="51-contrast-in-percent",
        make=fields(ctf__amp_contrast=single([0.1, 0.1, 7, 0.1, 0.1])),
        says=("ctf/amp_contrast is outside 0 to 1 (1 of 5 rows)", f"row 2 (uid {UID + 2}): 7.0"),
        remedy="It is a fraction",
    ),
    Rejected(
        id="49-defocus-in-micrometres",
        make=fields(ctf__df1_A=single([1.5] * 5), ctf__df2_A=single([1.4] * 5)),
        says=("particles.cs", "ctf/df1_A and ctf/df2_A", "(largest 1.5): µm?"),
        remedy="Give defocus in Å.",
    ),
    Rejected(
        id="30-sign-that-is-none",
        make=fields(blob__sign=single([1, -1, 0, 2, 1])),
        says=("blob/sign is neither 1 nor -1 (2 of 5 rows)", f"row 3 (uid {UID + 3}): 2.0"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="79-pixel-size-zero",
        make=fields(blob__psize_A=single([0] * 5)),
        says=("blob/psize_A is outside 0.001 to 1,000 Å (5 of 5 rows)", f"row 0 (uid {UID}): 0.0"),
        remedy="Pixel sizes are in Å",
    ),
    Rejected(
        id="2-pixel-sizes-differ",
        make=fields(blob__psize_A=single([2, 2, 2, 3, 3])),
        says=(
            "3 Å (blob/psize_A), but that of most rows is 2 Å (2 of 5 rows)",
            "row 3: 000001@J1/b",
        ),
        remedy="separately",
    ),
    Rejected(
        id="29-index-past-the-end",
        make=fields(blob__idx=np.array([0, 1, 3, 0, 2], dtype=np.uint32)),
        says=(
            "particles.cs: rows name images past the end of their stack (2 of 5 rows)",
            "row 2: image 3 of J1/a.mrc, which has 3 (counted from 0)",
        ),
        remedy="Was the stack extracted again",
    ),
    Rejected(
        id="29-index-that-wrapped",
        make=fields(blob__idx=np.array([2**32 - 1, 0, 1, 0, 1], dtype=np.uint32)),
        says=("particles.cs", "1 of 5 rows", "row 0: image 4,294,967,295 of J1/a.mrc"),
        remedy="Was the stack extracted again",
    ),
    Rejected(
        id="29-index-negative",
        make=fields(blob__idx=np.array([0, -1, 2, 0, 1], dtype=np.int64)),
        says=("particles.cs: blob/idx", "1 of 5 rows", f"row 1 (uid {UID + 1}): -1"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="29-index-beyond-any",
        make=fields(blob__idx=np.array([0, 2**64 - 1, 2, 0, 1], dtype=np.uint64)),
        says=("particles.cs: blob/idx", "1 of 5 rows", f"row 1 (uid {UID + 1}): {2**64 - 1}"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="28-path-empty",
        make=fields(blob__path=np.array([b"J1/a.mrc", b"J1/a.mrc", b"", b">", b"J1/b.mrc"])),
        says=("blob/path is empty (2 of 5 rows)", f"row 2 (uid {UID + 2})"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="25-stack-missing-beside-an-exported-file",
        make=stacks_missing,
        error=MissingFileError,
        says=("particles.cs: 1 of 2 files not found (2 of 5 rows)", "J1/b.mrc (in "),
        remedy="--folder",
    ),
    Rejected(
        id="all-at-once",
        make=all_at_once,
        error=InputError,
        says=(
            "ctf/accel_kv is outside 10 to 1,500 kV (1 of 9 rows)",
            "ctf/df1_A is not a finite number (1 of 9 rows)",
            "ctf/amp_contrast is outside 0 to 1 (1 of 9 rows)",
            "blob/sign is neither 1 nor -1 (1 of 9 rows)",
            "pixel size is 3 Å (blob/psize_A)",
            "c.mrc: is empty (1 of 9 rows)",
            "1 of 4 files not found (1 of 9 rows)",
            "blob/path is empty (1 of 9 rows)",
            "row 8: image 3 of J1/a.mrc, which has 3",
        ),
        remedy="Copy or write the file again.",
        n_problems=9,
    ),
]
