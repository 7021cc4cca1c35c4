"""Conversion: what will be done, doing it, and checking it afterwards."""

from cryolike.conversion.inspection import SetSummary, inspect_particles
from cryolike.conversion.plan import (
    ConversionPlan,
    ConvertOptions,
    PlannedStack,
    Survey,
    plan_conversion,
    survey,
)
from cryolike.conversion.run import ConversionReport, convert
from cryolike.conversion.verification import VerificationReport, verify

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertOptions",
    "PlannedStack",
    "SetSummary",
    "Survey",
    "VerificationReport",
    "convert",
    "inspect_particles",
    "plan_conversion",
    "survey",
    "verify",
]
