"""Checking artifacts by what they, and the report beside them, say of themselves."""

from converter.verifying.claims import Claim, claims_of
from converter.verifying.verify import Check, Verification, expect_passed, seed_of, verify

__all__ = ["Check", "Claim", "Verification", "claims_of", "expect_passed", "seed_of", "verify"]
