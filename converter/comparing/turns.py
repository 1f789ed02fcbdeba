"""Whether two tensors fit, as they stand or with the channels at the other end.

A permutation takes A's tensor to B's: B's axis i is A's axis permutation[i]. The empty one stands for none.
"""

from __future__ import annotations

import numpy as np

from converter.model import TensorSpec

__all__ = ["AS_IT_STANDS", "Turn", "inverse", "known", "readings", "words"]

Turn = tuple[int, ...]
AS_IT_STANDS: Turn = ()
_RANKS = (3, 4, 5)  # sequences, images, volumes, the batch first


def readings(a: TensorSpec, b: TensorSpec) -> list[Turn]:
    """The ways in which B's tensor can be A's; none where their dtypes or sizes contradict.

    Of several, those in which most sizes are known to be equal: free sizes fit any.
    """
    if not _same_kind(a, b):
        return []
    if not known(a) or not known(b):
        return [AS_IT_STANDS]
    if len(a.shape) != len(b.shape):
        return []
    found: dict[Turn, int] = {}
    for turn in (AS_IT_STANDS, *_turns(len(a.shape))):
        sizes = [a.shape[axis] for axis in turn] if turn else list(a.shape)
        pairs = [
            (x, y) for x, y in zip(sizes, b.shape, strict=True) if isinstance(x, int) and isinstance(y, int)
        ]
        if all(x == y for x, y in pairs):
            found[turn] = len(pairs)
    best = max(found.values(), default=0)
    return [turn for turn, count in found.items() if count == best]


def _turns(rank: int) -> tuple[Turn, ...]:
    """Channels last to first, and first to last; of sequences both are the same."""
    if rank not in _RANKS:
        return ()
    first = (0, rank - 1, *range(1, rank - 1))
    return tuple(dict.fromkeys((first, inverse(first))))


def inverse(turn: Turn) -> Turn:
    """The permutation that takes B's tensor to A's."""
    return tuple(turn.index(axis) for axis in range(len(turn)))


def known(spec: TensorSpec) -> bool:
    """Whether a shape is known."""
    return "..." not in spec.shape


def words(turn: Turn) -> str:
    """A permutation as it is written: `0,3,1,2`."""
    return ",".join(map(str, turn))


def _same_kind(a: TensorSpec, b: TensorSpec) -> bool:
    return a.dtype == b.dtype or "unknown" in (a.dtype, b.dtype) or _kind(a) == _kind(b) != ""


def _kind(spec: TensorSpec) -> str:
    """`f` for floating point, `i` for integers, else nothing."""
    try:
        dtype = spec.numpy_dtype
    except TypeError:  # a sequence
        return ""
    if spec.dtype in ("float16", "float32", "float64", "bfloat16"):
        return "f"
    return "i" if np.issubdtype(dtype, np.integer) else ""
