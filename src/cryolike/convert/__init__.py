"""Conversion: what will be done, doing it, and checking it afterwards."""

from cryolike.convert.plan import (
    ConversionPlan,
    ConvertOptions,
    PlannedStack,
    Survey,
    plan_conversion,
    survey,
)
from cryolike.convert.run import ConversionReport, convert
from cryolike.convert.verify import VerificationReport, verify

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertOptions",
    "PlannedStack",
    "Survey",
    "VerificationReport",
    "convert",
    "plan_conversion",
    "survey",
    "verify",
]
