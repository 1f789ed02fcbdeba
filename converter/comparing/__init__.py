"""Two artifacts side by side, without the source that they were made from."""

from converter.comparing.kinds import Means, open_artifact
from converter.comparing.outcome import Outcome, Result
from converter.comparing.pairing import Asked, Pair
from converter.comparing.run import Bounds, compare_artifacts, seen_as

__all__ = [
    "Asked",
    "Bounds",
    "Means",
    "Outcome",
    "Pair",
    "Result",
    "compare_artifacts",
    "open_artifact",
    "seen_as",
]
