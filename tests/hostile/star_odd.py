"""STAR files that are odd, but convert."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Accepted,
    Make,
    Source,
    star_source,
)
from tests.hostile.star_sets import (
    FIRST,
    GROUP,
    SECOND,
    edited,
    stars,
    with_names,
    with_optics,
    without,
)

from cryolike.descriptor import ImageDescriptor


def rewritten(change: Callable[[str], str], **keywords: Any) -> Make:
    """Make the set of `stars` with another text, in which line ends are kept as they are."""

    def make(build: SetBuilder) -> Source:
        source = stars(build, **keywords)
        path = build.folder / "particles.star"
        path.write_text(change(path.read_text()), newline="")
        return source

    return make


def odd(id: str, make: Make, *, warns: Sequence[str] = (), notes: Sequence[str] = ()) -> Accepted:
    """Odd set whose images are those of the plain one."""
    return Accepted(id=id, make=make, warns=tuple(warns), notes=tuple(notes), same_as=stars)


def old_style(build: SetBuilder) -> Source:
    """Make a set of RELION 3.0: one table, magnification and detector pixel size."""
    build.relion((3, 2))
    names = [f"{i}@{FIRST}" for i in (1, 2, 3)] + [f"{i}@{SECOND}" for i in (1, 2)]
    rows = "\n".join(
        f"{name} 12000 11500 {10 * i} 300 2.7 0.1 12.5 62500" for i, name in enumerate(names)
    )
    labels = (
        "ImageName DefocusU DefocusV DefocusAngle Voltage SphericalAberration AmplitudeContrast"
    )
    columns = "\n".join(
        f"_rln{label} #{i}"
        for i, label in enumerate([*labels.split(), "DetectorPixelSize", "Magnification"], 1)
    )
    path = build.folder / "old.star"
    path.write_text(f"\ndata_\n\nloop_\n{columns}\n{rows}\n")
    return star_source(path)


def quoted(text: str) -> str:
    """Put each image name in quotes."""
    return re.sub(r"(\d+@\S+)", r"'\1'", text)


def in_a_job(build: SetBuilder) -> Source:
    """Make the set with its STAR file two folders below the project."""
    path = build.relion((3, 2)).path
    job = build.folder / "Refine3D/job012"
    job.mkdir(parents=True)
    path.rename(job / "run_data.star")
    return star_source(job / "run_data.star")


def twins(build: SetBuilder) -> Source:
    """Make the set with stacks .mrc, which its STAR file calls .mrcs."""
    built = build.relion((3, 2))
    for path in built.stacks:
        path.rename(path.with_suffix(".mrc"))
    return star_source(built.path)


def with_at_sign(build: SetBuilder) -> Source:
    """Make the set with stacks in a folder whose name holds '@'."""
    build.relion((3, 2))
    (build.folder / "Particles").rename(build.folder / "me@home")
    path = build.folder / "particles.star"
    path.write_text(path.read_text().replace("@Particles/", "@me@home/"))
    return star_source(path)


def dark(build: SetBuilder) -> Source:
    """Make a set of 24 images whose central disc is below the background."""
    y, x = np.mgrid[-6:6, -6:6]
    images = build.noise(24) * 0.1 - 1.0 * (x**2 + y**2 < 12)
    return star_source(build.relion((24,), images=images.astype(np.float32)).path)


def many_angles(*values: float) -> Make:
    """Make a set of 24 images with these defocus angles, again and again."""
    return lambda build: star_source(
        build.relion((24,), columns={"rlnDefocusAngle": [*values] * (24 // len(values))}).path
    )


def accepted_on_request(build: SetBuilder) -> Source:
    """Make a premultiplied set, to be read all the same."""
    path = build.relion((3, 2), optics={"rlnCtfDataAreCtfPremultiplied": [1]}).path
    return star_source(path, accept_ctf_applied=True)


ACCEPTED = [
    odd("control", stars),
    Accepted(id="control-of-one-table", make=old_style, warns=("rlnPhaseShift is missing",)),
    odd("57-crlf", rewritten(lambda text: text.replace("\n", "\r\n"))),
    odd("57-lone-cr-and-lf-mixed", rewritten(lambda text: text.replace("\n", "\r\n", 14))),
    odd("58-no-last-line-end", rewritten(lambda text: text.rstrip("\n"))),
    odd("58-byte-order-mark", rewritten(lambda text: "\ufeff" + text)),
    odd("58-blank-lines-and-comments", rewritten(lambda text: text + "\n# end\n\n   \n")),
    odd("60-quotes", rewritten(quoted)),
    odd("60-spaces-before-everything", rewritten(lambda text: text.replace("\n", "\n  "))),
    odd("60-tabs", rewritten(lambda text: text.replace(" ", "\t"))),
    odd("59-column-numbers-wrong", rewritten(lambda text: re.sub(r"#\d+", "#12", text))),
    odd(
        "67-integers-as-decimals",
        rewritten(lambda text: text.replace(f"{FIRST} 1 ", f"{FIRST} 1.000 ")),
    ),
    odd("17-labels-without-prefix", rewritten(lambda text: text.replace("_rln", "_"))),
    odd(
        "10-further-blocks",
        rewritten(lambda text: "\ndata_general\n_rlnFinalResolution 3.1\n" + text),
        notes=["Blocks that were not needed are ignored: data_general."],
    ),
    odd(
        "71-values-in-both-tables",
        lambda build: stars(build, columns={"rlnVoltage": [300, 300, 200, 300, 200]}),
        notes=["rlnVoltage differs between particles and optics groups in 2 of 5 rows"],
    ),
    odd("71-equal-values-in-both-tables", lambda build: stars(build, columns={"rlnVoltage": 300})),
    odd(
        "53-groups-not-in-order",
        edited((GROUP, f"7 200 1.4 0.1 2.0\n{GROUP}\n0 300 2.7 0.1 2.0")),
    ),
    odd(
        "11-no-group-column",
        rewritten(lambda text: text.replace("_rlnOpticsGroup #2", "_rlnGroupNumber #2")),
        warns=["the only optics group is used for all rows"],
    ),
    odd(
        "65-image-size-wrong",
        with_optics(ImageSize=64),
        warns=["image size differs from the stack's in 5 of 5 rows: the stacks count"],
    ),
    odd(
        "65-image-size-that-is-none",
        with_optics(ImageSize="large"),
        warns=["rlnImageSize is no box size in 5 of 5 rows"],
    ),
    odd(
        "49-zero-defocus",
        lambda build: stars(build, columns={"rlnDefocusU": 0, "rlnDefocusV": 0}),
        warns=["5 of 5 rows have zero defocus"],
    ),
    odd(
        "49-negative-defocus",
        lambda build: stars(build, columns={"rlnDefocusU": [1e4, 1e4, -2e3, 1e4, 1e4]}),
        warns=["1 of 5 rows have negative defocus (overfocus)"],
    ),
    odd("69-cs-zero", with_optics(SphericalAberration=0)),
    odd("16-defocus-angles-zero", lambda build: stars(build, columns={"rlnDefocusAngle": 0})),
    odd(
        "12-defaults",
        without("rlnAmplitudeContrast", "rlnPhaseShift"),
        warns=[
            "rlnAmplitudeContrast is missing: 0.1 used for all 5 rows",
            "rlnPhaseShift is missing: 0 used for all 5 rows",
        ],
    ),
    odd(
        "12-scale-zero",
        lambda build: stars(build, columns={"rlnCtfScalefactor": [1, 1, 0, 1, 1]}),
        warns=["rlnCtfScalefactor is 0 in 1 of 5 rows"],
    ),
    Accepted(
        id="50-phase-shifts-that-look-like-radians",
        make=lambda build: star_source(build.relion((14,), columns={"rlnPhaseShift": 1.57}).path),
        warns=("rlnPhaseShift, 1.57 to 1.57, look like radians; they are read as degrees",),
        n_images=14,
    ),
    Accepted(
        id="50-defocus-angles-that-look-like-radians",
        make=many_angles(-3.1, 0.2, 3.1),
        warns=("rlnDefocusAngle, -3.1 to 3.1, look like radians; they are read as degrees",),
        n_images=24,
    ),
    odd(
        "70-beam-tilt",
        with_optics(BeamTiltX=0.3, BeamTiltY=0.4),
        warns=["records beam tilt, up to 0.5 mrad, in 5 rows: this is not applied"],
    ),
    odd(
        "70-zernike-terms",
        with_optics(EvenZernike="[0.0,1.5,-2.5]"),
        warns=["rlnEvenZernike (aberrations), coefficients up to 2.5, in 5 rows"],
    ),
    odd(
        "70-anisotropic-magnification",
        with_optics(MagMat00=1.01, MagMat01=0, MagMat10=0, MagMat11=1),
        warns=["anisotropic magnification (rlnMagMat), up to 1 %, in 5 rows"],
    ),
    odd(
        "34-magnification-matrix-zero",
        with_optics(MagMat00=0, MagMat01=0, MagMat10=0, MagMat11=0),
        warns=["rlnMagMat is all zero in 5 rows: taken as the identity"],
    ),
    odd(
        "62-nan-in-a-pose",
        lambda build: stars(build, columns={"rlnAngleTilt": [1, 2, "nan", 4, 5]}),
        warns=["rlnAngleTilt is not a finite number in 1 of 5 rows"],
    ),
    Accepted(
        id="54-origins-in-unknown-pixels",
        make=lambda build: stars(build, columns={"rlnOriginX": 1}, without=["rlnImagePixelSize"]),
        warns=(
            "rlnOriginX is in pixels, and the file gives no pixel size: ignored",
            "No file gives the pixel size: the descriptor's, 2 Å, is used",
        ),
        descriptor=ImageDescriptor.from_individual_values(12, 2.0),
        same_as=stars,
    ),
    odd(
        "46-pixel-size-of-the-micrographs",
        lambda build: stars(
            build, optics={"rlnMicrographPixelSize": [2.0]}, without=["rlnImagePixelSize"]
        ),
        warns=["taken from rlnMicrographPixelSize"],
    ),
    odd("45-pixel-size-by-its-old-name", edited(("_rlnImagePixelSize", "_rlnPixelSize"))),
    odd("55-premultiplied-on-request", accepted_on_request, warns=["are CTF-premultiplied"]),
    odd("44-star-file-in-a-job", in_a_job),
    odd("40-mrc-for-mrcs", twins, notes=["2 stacks were found under .mrc instead of .mrcs"]),
    odd("14-at-sign-in-a-path", with_at_sign),
    Accepted(
        id="92-image-named-twice",
        make=with_names(f"1@{FIRST}", f"2@{FIRST}", f"1@{FIRST}", f"1@{SECOND}", f"1@{FIRST}"),
        notes=("2 rows repeat an image that another row has; all are kept",),
    ),
    Accepted(id="47-protein-dark", make=dark, warns=("Protein looks dark",), n_images=24),
    Accepted(id="8-one-row", make=with_names(f"3@{FIRST}"), n_images=1),
]
