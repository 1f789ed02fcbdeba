"""What each layer of a model costs: weights, work, memory, and time as it runs."""

from converter.profiling.compare import Pair, compared
from converter.profiling.measure import Latency, Setting
from converter.profiling.profile import RUNTIME, Profile, Row, profile
from converter.profiling.roofs import Roofs, roofs

__all__ = ["RUNTIME", "Latency", "Pair", "Profile", "Roofs", "Row", "Setting", "compared", "profile", "roofs"]
