"""Proof that a piece computes what the source framework computes."""

from converter.validation.certificate import Certificate
from converter.validation.comparison import Comparison, compare, spread_of
from converter.validation.shapes import check_shapes
from converter.validation.validate import Candidate, Judge
from converter.validation.variants import compare_variants

__all__ = [
    "Candidate",
    "Certificate",
    "Comparison",
    "Judge",
    "check_shapes",
    "compare",
    "compare_variants",
    "spread_of",
]
