"""Proof that a piece computes what the source framework computes."""

from converter.validation.certificate import Certificate
from converter.validation.comparison import Comparison, compare
from converter.validation.validate import Candidate, validate

__all__ = [
    "Candidate",
    "Certificate",
    "Comparison",
    "compare",
    "validate",
]
