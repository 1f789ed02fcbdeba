"""What an artifact says of itself: the answers it gave on seeded samples, and digests of its bytes."""

from converter.recording.record import Answer, Match, Record
from converter.recording.seal import Seal, parsed, read_seal, seal

__all__ = ["Answer", "Match", "Record", "Seal", "parsed", "read_seal", "seal"]
