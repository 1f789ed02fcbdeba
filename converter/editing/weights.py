"""Which weights of a changed model are the original's, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from converter.errors import ValidationError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["digests", "kept_weights"]


def kept_weights(
    before: Mapping[str, ir.TensorProtocol],
    after: Mapping[str, str],
    *,
    new: Collection[str] = (),
    frozen: Collection[str] = (),
    folded: bool = False,
) -> dict[str, Any]:
    """What became of the weights, as JSON-ready values; digests of all that stayed are compared.

    Args:
        before: the original's weights.
        after: the digests of the changed model's (see `digests`).
        new: names that new layers took over.
        frozen: names of weights that are not to be trained.
        folded: the changed model is optimised: a weight that was folded into another counts as removed.

    Raises:
        ValidationError: a weight that should have stayed is another.
    """
    kept, other = {}, []
    for name, digest in after.items():
        if name in before and name not in new:
            if digest == _digest(before[name]):
                kept[name] = digest
            else:
                other.append(name)
    if other and not folded:
        raise ValidationError(f"{len(other)} weights that should have stayed differ: {', '.join(other[:4])}")
    return {
        "kept": len(kept),
        "kept_sha256": hashlib.sha256("".join(kept[name] for name in sorted(kept)).encode()).hexdigest(),
        "new": [name for name in after if name not in kept],
        "removed": len(before) - len(kept),
        "frozen": sorted(set(frozen) & set(after)),
    }


def digests(weights: Mapping[str, ir.TensorProtocol]) -> dict[str, str]:
    """Name of a weight → its digest."""
    return {name: _digest(tensor) for name, tensor in weights.items()}


def _digest(tensor: Any) -> str:
    """The SHA-256 of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype.name} {[int(size) for size in tensor.shape]}".encode())
    digest.update(tensor.tobytes())
    return digest.hexdigest()
