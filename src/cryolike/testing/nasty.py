"""Values that have broken readers, or that nobody expects."""

from __future__ import annotations

import struct

__all__ = [
    "ARRAY_ITEMS",
    "FIELDS",
    "HEADERS",
    "PICKLE",
    "SHAPES",
    "STRAY_LINES",
    "TYPES",
    "VALUES",
    "WORDS",
    "YAML",
]

# fmt: off
VALUES = (
    "nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "1e308", "-1e308", "-0", "0", "-1", "1e200",
    "2147483648", "-9223372036854775809", "18446744073709551616", "9" * 30, "9" * 5000,
    "1e999999999", "0x10", "1_000", "1,5", "١٢", "1d5", "", " ", "\t", "None", "null", "True",
    "<NA>", "-", "+", ".", '"', "'", '""', "''", "#", ";", "_", "$", "@", "1@", "@a.mrcs",
    "0@a.mrcs", "-1@a.mrcs", "1@\0", "999999999999999999@a.mrcs", "1@..", "1@/", "1@.",
    "1@/dev/null", "1@" + "a/" * 300, "a" * 5000, "data_", "data_optics", "data_particles", "loop_",
    "save_", "stop_", "_rlnImageName", "\0", "\x1f", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff",
    "\U0001f600", "\udcff", "{}", "[]", "[nan,1e400]", "[1e400,-1e400]", "%s", "{0}", "\r", "\r\n",
    "\n", "\x0b", "\x0c", "\x1a", "../" * 40,
)
"""Texts that have broken readers: of numbers, of names, of the structure of files."""

STRAY_LINES = (
    "data_", "data_particles", "data_optics", "data_optics\n\nloop_\n_rlnOpticsGroup\n1", "loop_",
    "_rlnImageName", "_rlnImageName #1", "_rlnOpticsGroup #99", "_rlnDefocusU 5", "_rlnVoltage #3",
    "_rlnTomoName", "_rlnMagMat00", "_rlnMagMat01 #2", "_rlnMagMat10", "_rlnMagMat11",
    "_rlnPhaseShift", "_rlnImageDimensionality 3", "_rlnBeamTiltX", "_rlnBeamTiltY",
    "_rlnEvenZernike", "_rlnClassNumber", "_rlnCtfDataArePhaseFlipped", "_rlnOriginX",
    "_rlnMagnification", "_rlnDetectorPixelSize", "_", "# comment", "#", ";", "", " ", "1", "a b c",
    "'", '"', "\0", "\r", "version https://git-lfs", "<html>",
)
"""Lines that mean something elsewhere in a STAR file."""

YAML = (
    "!!python/name:os.system ''", "!!python/object/apply:os.system ['false']", "!!timestamp x",
    "!!int ''", "!!float x", "!!bool x", "!!binary é", "!!set {1, 2}", "&a [*a]", "*a", "{}: 1",
    "[" * 3000, "- " * 3000, "? " * 100, "{a: " * 1000, "<<: 1", "!", "%YAML 9.9", "---", "|", ">",
    ":".join(["59"] * 400) + ".5", "2001-99-99", "0b", "0x_", "1e", ".nan", "[1, 2]", "{a: 1}", "~",
)
"""YAML that is too deep, too long, wrong, or asks for a program to be run."""

FIELDS = (
    "uid", "blob/path", "blob/idx", "blob/shape", "blob/psize_A", "blob/sign", "ctf/df1_A",
    "ctf/df2_A", "ctf/df_angle_rad", "ctf/cs_mm", "ctf/accel_kv", "ctf/phase_shift_rad",
    "ctf/amp_contrast", "ctf/ac", "ctf/anisomag", "ctf/tilt_A", "ctf/bfactor", "ctf/scale",
    "ctf/exp_group_id", "alignments3D/class", "alignments3D/pose", "", "x", "uid\0", "é",
)
"""Names of fields of .cs files."""

TYPES = (
    "'<f4'", "'<f8'", "'>f2'", "'<g'", "'<c8'", "'<u8'", "'<i8'", "'|u1'", "'|b1'", "'|O'", "'|S0'",
    "'|S5'", "'<U0'", "'<U3'", "'>U2'", "'|V0'", "'|V7'", "'<M8[s]'", "'<m8[ns]'", "'<T'",
    "'f4,f4'", "'|S2147483647'", "'<U999999999'", "'O8'", "'a5'", "5", "None", "''", "'\\\\d'",
    "()", "[]", "'@f4'", "[('a', '<f4'), ('b', '<i4')]", "[('uid', [('x', '|O')])]",
    "{'names': ['a'], 'formats': ['<f4']}", "'<f4', (0,)", "'<f4', (3,)", "'<f4', (2, 2)",
    "'<f4', (10000000, 10000000)", "'<f4', (-1,)", "'<u4', ()", "'|S0', (3,)", "'<f4', 3",
    "'<f4', ('a',)", "'|i1', (2147483647, 2147483647)",
)
"""What the header of a NumPy file may say, rightly or wrongly, after the name of a field."""

SHAPES = (
    "()", "(0,)", "(1,)", "(3,)", "(-1,)", "(3, 1)", "(1, 3)", "(1000000000000,)", "(2 ** 40,)",
    "(9223372036854775807,)", "(18446744073709551616,)", "(True,)", "(1.0,)", "(nan,)", "('3',)",
    "3", "None", "[3]", "(3,) * 5", "(3L,)", "(4294967296, 4294967296)", "(0, 9223372036854775807)",
)
"""What it may say of the shape."""

HEADERS = (
    "", " ", "{}", "[]", "None", "1", "{", "}", "(" * 300, "[" * 5000, "-" * 5000 + "1",
    "{'descr':", "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "{1: 2}", "'\\d'",
    "'" + "a" * 20_000 + "'", "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "\\", "#",
    "1 if 1 else 2", "1" * 5000,
    "{'descr': [('uid', '<u8')], 'fortran_order': 'no', 'shape': (1,)}", "__import__('os')",
    "f'{1}'", "{'descr': [], 'fortran_order': False, 'shape': (3,)}", "0x", "1_0", "\0", "\n\n",
    "é", "1e400", "{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
    "(1)(2)", "b'1'", "{'descr': [(('t', 'uid'), '<u8')], 'fortran_order': True, 'shape': (1,)}",
    "...", "1j", "{**{}}",
)
"""What may stand in the place of the whole header."""

PICKLE = b"cbuiltins\nexec\n(Vraise SystemExit('a pickle was run')\ntR."
"""A pickle that ends the program, in the protocol of 1990, which needs no module to write."""

ARRAY_ITEMS = (
    *( ("<f8", struct.pack("<d", x)) for x in (float("nan"), float("inf"), 0.0, -1.0, 1e300, 1e-300)
    ), *(("<i8", struct.pack("<q", i)) for i in (0, -1, 1, 2**31, 2**62, 2**63 - 1)),
    *(("|b1", b"\1"), ("|b1", b"\7"), ("<c16", struct.pack("<2d", 1.0, 2.0)), ("<f2", b"\0\x3c")),
    *(("|S3", b"abc"), ("<U1", b"x\0\0\0"), ("<U1", b"\xff\xff\xff\xff"), ("|S1", b"\xff")),
    *(("<M8[s]", b"\0" * 8), ("|V4", b"abcd"), ("|O", PICKLE)),
)
"""NumPy's name of a type, and the bytes of one item."""

WORDS = (0, 1, 2, 3, 4, 6, 12, 101, -1, -2, 64, 1024, 65_535, 65_536, 2**24, 2**31 - 1, -(2**31))
"""Numbers for the header of an MRC file."""
