"""Where an export drifts: every layer boundary at once, the framework against ONNX Runtime."""

from converter.drifting.drift import Drift, drift
from converter.drifting.verdicts import ACCUMULATED, AGREES, INHERITED, OWN, Row

__all__ = ["ACCUMULATED", "AGREES", "INHERITED", "OWN", "Drift", "Row", "drift"]
