"""The published entry points: a few lines each over the one pipeline."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cryolike.conversion import ConversionReport, ConvertOptions, convert, plan_conversion
from cryolike.descriptor import ImageDescriptor, load_descriptor, one_pixel_size
from cryolike.errors import CryoLikeWarning, UsageError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.io.structure import StructureSource
from cryolike.particles import ParticleTable
from cryolike.physics.preprocess import DownsampleType
from cryolike.progress import progress_bar
from cryolike.store.writer import refuse_existing_results
from cryolike.templates import write_templates

__all__ = [
    "convert_particle_stacks_from_cryosparc_job_directory",
    "convert_particle_stacks_from_indexed_cryosparc_file",
    "convert_particle_stacks_from_indexed_star_file",
    "convert_particle_stacks_from_paired_star_and_mrc_files",
    "make_templates_from_inputs",
]

Params = ImageDescriptor | str | Path


def convert_particle_stacks_from_paired_star_and_mrc_files(
    params_input: Params,
    particle_file_list: Sequence[str | Path] = (),
    star_file_list: Sequence[str | Path] = (),
    defocus_angle_is_degree: bool = True,
    phase_shift_is_degree: bool = True,
    *,
    folder_output: str | Path = "",
    batch_size: int = 1024,
    pixel_size: float | Sequence[float] | None = None,
    downsample_factor: int = 1,
    downsample_type: DownsampleType = "mean",
    skip_exist: bool = False,
    overwrite: bool = False,
    flag_plots: bool = True,
    **further: Any,
) -> ConversionReport:
    """Convert MRC stacks, each with a STAR file whose rows describe its images in order.

    Parameters
    ----------
    params_input
        Image descriptor, or the path of a saved one.
    particle_file_list, star_file_list
        Stacks and STAR files, as many of one as of the other.
    defocus_angle_is_degree, phase_shift_is_degree
        Whether the STAR files hold degrees; else radians.
    folder_output
        Where to write; the working directory if empty.
    batch_size
        Images in an output stack. Inputs never share a stack.
    pixel_size
        Of the images on disk, Å, one number or (x, y).
    downsample_factor, downsample_type
        Merge factor×factor pixels by 'mean', 'max' or 'fourier'. 'fourier' is recommended:
        pooling aliases.
    skip_exist
        Resume: keep complete stacks of an earlier run.
    overwrite
        Replace results of an earlier run.
    flag_plots
        Whether to draw each stack.
    **further
        ``contrast``, ``on_bad_row``, ``on_bad_image`` of
        `cryolike.conversion.ConvertOptions`; ``device``; and for STAR files
        ``accept_ctf_applied``, to convert images although their metadata says that phases were
        flipped or the CTF was multiplied in.

    Returns
    -------
    ConversionReport
        What was done.

    Raises
    ------
    CryoLikeError
        Everything that is wrong, in one error.
    """
    accept_ctf_applied = further.pop("accept_ctf_applied", False)
    return _convert(
        lambda: read_pairs(
            star_file_list,
            particle_file_list,
            defocus_angle_is_degree=defocus_angle_is_degree,
            phase_shift_is_degree=phase_shift_is_degree,
            accept_ctf_applied=accept_ctf_applied,
        ),
        params_input,
        folder_output,
        pixel_size,
        skip_exist=skip_exist,
        overwrite=overwrite,
        batch_size=batch_size,
        downsample_factor=downsample_factor,
        downsample_type=downsample_type,
        plots=flag_plots,
        **further,
    )


def convert_particle_stacks_from_indexed_star_file(
    params_input: Params,
    star_file: str | Path = "",
    folder_mrc: str | Path = "",
    *,
    folder_output: str | Path = "",
    batch_size: int = 1024,
    pixel_size: float | Sequence[float] | None = None,
    downsample_factor: int = 1,
    downsample_type: DownsampleType = "mean",
    skip_exist: bool = False,
    overwrite: bool = False,
    flag_plots: bool = True,
    **further: Any,
) -> ConversionReport:
    """Convert the images that a RELION STAR file names.

    Parameters
    ----------
    params_input
        Image descriptor, or the path of a saved one.
    star_file
        STAR file with ``rlnImageName``.
    folder_mrc
        Where the stacks are: then only the file names in the STAR file count. Empty to use its
        paths.
    folder_output, batch_size, pixel_size, downsample_factor, downsample_type
        See `convert_particle_stacks_from_paired_star_and_mrc_files`.
    skip_exist, overwrite, flag_plots, **further
        Likewise.

    Returns
    -------
    ConversionReport
        What was done.

    Raises
    ------
    CryoLikeError
        Everything that is wrong, in one error.
    """
    accept_ctf_applied = further.pop("accept_ctf_applied", False)
    return _convert(
        lambda: read_star(star_file, accept_ctf_applied=accept_ctf_applied),
        params_input,
        folder_output,
        pixel_size,
        skip_exist=skip_exist,
        overwrite=overwrite,
        folder=str(folder_mrc),
        batch_size=batch_size,
        downsample_factor=downsample_factor,
        downsample_type=downsample_type,
        plots=flag_plots,
        **further,
    )


def convert_particle_stacks_from_indexed_cryosparc_file(
    params_input: Params,
    file_cs: str | Path = "",
    folder_cryosparc: str | Path = "",
    n_stacks_max: int = -1,
    *,
    folder_output: str | Path = "",
    batch_size: int = 1024,
    pixel_size: float | Sequence[float] | None = None,
    downsample_factor: int = 1,
    downsample_type: DownsampleType = "mean",
    skip_exist: bool = False,
    overwrite: bool = False,
    flag_plots: bool = True,
    **further: Any,
) -> ConversionReport:
    """Convert the images that a cryoSPARC ``.cs`` file or ``.csg`` result group names.

    Parameters
    ----------
    params_input
        Image descriptor, or the path of a saved one.
    file_cs
        File with ``blob/path`` and ``blob/idx``, in itself or in the passthrough file beside it.
    folder_cryosparc
        Where the stacks are: then only file names count. Empty to use the paths in the file.
    n_stacks_max
        Stop after that many stacks; −1 for all.
    folder_output, batch_size, pixel_size, downsample_factor, downsample_type
        See `convert_particle_stacks_from_paired_star_and_mrc_files`.
    skip_exist, overwrite, flag_plots, **further
        Likewise.

    Returns
    -------
    ConversionReport
        What was done.

    Raises
    ------
    CryoLikeError
        Everything that is wrong, in one error.
    """
    return _convert(
        lambda: read_cryosparc(file_cs),
        params_input,
        folder_output,
        pixel_size,
        skip_exist=skip_exist,
        overwrite=overwrite,
        folder=str(folder_cryosparc),
        n_stacks_max=n_stacks_max,
        batch_size=batch_size,
        downsample_factor=downsample_factor,
        downsample_type=downsample_type,
        plots=flag_plots,
        **further,
    )


def convert_particle_stacks_from_cryosparc_job_directory(
    params_input: Params,
    folder_cryosparc: str | Path = "",
    job_number: int = 0,
    n_stacks_max: int = -1,
    *,
    folder_output: str | Path = "",
    batch_size: int = 1024,
    pixel_size: float | Sequence[float] | None = None,
    downsample_factor: int = 1,
    downsample_type: DownsampleType = "mean",
    skip_exist: bool = False,
    overwrite: bool = False,
    flag_plots: bool = True,
    **further: Any,
) -> ConversionReport:
    """Convert the stacks of a cryoSPARC restack or downsample job, whose rows are in their order.

    Parameters
    ----------
    params_input
        Image descriptor, or the path of a saved one.
    folder_cryosparc
        Project folder, which holds ``J{job_number}``.
    job_number
        Number of the job.
    n_stacks_max
        Stop after that many stacks; −1 for all.
    folder_output, batch_size, pixel_size, downsample_factor, downsample_type
        See `convert_particle_stacks_from_paired_star_and_mrc_files`.
    skip_exist, overwrite, flag_plots, **further
        Likewise.

    Returns
    -------
    ConversionReport
        What was done.

    Raises
    ------
    CryoLikeError
        Everything that is wrong, in one error.
    """
    return _convert(
        lambda: read_job(folder_cryosparc, job_number),
        params_input,
        folder_output,
        pixel_size,
        skip_exist=skip_exist,
        overwrite=overwrite,
        n_stacks_max=n_stacks_max,
        batch_size=batch_size,
        downsample_factor=downsample_factor,
        downsample_type=downsample_type,
        plots=flag_plots,
        **further,
    )


def make_templates_from_inputs(
    list_of_inputs: Sequence[StructureSource],
    image_parameters_file: Params,
    output_plots: bool = True,
    folder_output: str | Path = "./templates/",
    verbose: bool = False,
    *,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Make templates of structures: one file each, one template for each viewing direction.

    Parameters
    ----------
    list_of_inputs
        Paths of maps and atomic models; or arrays or tensors, densities with axes z, y, x whose
        voxels have the size of the pixels.
    image_parameters_file
        Image descriptor, or the path of a saved one.
    output_plots
        Whether to draw each structure's templates.
    folder_output
        Where to write.
    verbose
        Whether to show progress where standard error is no terminal, too.
    overwrite
        Replace templates of an earlier run.

    Returns
    -------
    tuple of Path
        The files of templates, in the order of the inputs.

    Raises
    ------
    CryoLikeError
        Everything that is wrong, in one error.
    """
    with progress_bar(
        "templates", visible=verbose or sys.stderr.isatty(), unit="views"
    ) as progress:
        return write_templates(
            list_of_inputs,
            load_descriptor(image_parameters_file),
            folder_output,
            plots=output_plots,
            overwrite=overwrite,
            progress=progress,
        )


def _convert(
    read: Callable[[], ParticleTable],
    params_input: Params,
    folder_output: str | Path,
    pixel_size: float | Sequence[float] | None,
    *,
    skip_exist: bool,
    overwrite: bool,
    device: str = "cpu",
    **options: Any,
) -> ConversionReport:
    """Read, plan and convert, with warnings as warnings and a progress bar on a terminal."""
    unknown = options.keys() - {field.name for field in fields(ConvertOptions)}
    if unknown:
        msg = f"unknown option: {', '.join(sorted(unknown))}."
        raise UsageError(msg)
    if not (skip_exist or overwrite):
        refuse_existing_results(Path(folder_output))
    plan = plan_conversion(
        read(),
        load_descriptor(params_input),
        ConvertOptions(
            pixel_size_A=None if pixel_size is None else one_pixel_size(pixel_size), **options
        ),
    )
    with progress_bar("converting", visible=sys.stderr.isatty()) as progress:
        report = convert(
            plan,
            Path(folder_output),
            skip_exist=skip_exist,
            overwrite=overwrite,
            device=device,
            progress=progress,
        )
    for message in report.warnings:
        warnings.warn(message, CryoLikeWarning, stacklevel=3)
    return report
