"""The layers that a node belongs to, as far as whoever exported the file left word of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import onnx

from converter.model import LAYER

__all__ = ["scopes_of"]

# PyTorch's exporter: a list of module paths, from the model inwards, that ends with the operator.
_TORCH_SCOPES = "pkg.torch.onnx.name_scopes"
# The same as one text: `: ResNet/layer3: Sequential/layer3.0: Bottleneck/…`.
_NAMESPACE = "namespace"


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """Names of the layers around a node, outermost first.

    From the metadata that PyTorch's exporter or this package left, else from the node's name: other exporters
    name nodes after their scope (`/layer3/layer3.0/conv1/Conv`, `model/block1_conv1/Conv2D`).
    """
    noted = {entry.key: entry.value for entry in node.metadata_props}
    if LAYER in noted:
        return _prefixes(noted[LAYER])
    found = _torch_scopes(noted)
    return found if found else _from_name(node.name)


def _torch_scopes(noted: Mapping[str, str]) -> list[str]:
    scopes: Sequence[object] = ()
    if _TORCH_SCOPES in noted:
        try:
            scopes = ast.literal_eval(noted[_TORCH_SCOPES])[:-1]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            scopes = ()
    elif _NAMESPACE in noted:
        parts = [part.partition(":")[0] for part in noted[_NAMESPACE].split("/")]
        scopes = parts[:-1] if ":" not in noted[_NAMESPACE].rpartition("/")[2] else parts
    return [scope for scope in scopes if isinstance(scope, str) and scope]


def _prefixes(path: str) -> list[str]:
    """`a`, `a/b`, `a/b.c` of `a/b.c`."""
    ends = [i for i, letter in enumerate(path) if letter in "/."]
    return [path[:end] for end in ends if end] + [path]


def _from_name(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part]
    scopes: list[str] = []
    for part in parts[:-1]:
        last = scopes[-1] if scopes else ""
        if not last or part.startswith(f"{last}."):
            scopes.append(part)  # a module path of PyTorch's, which repeats what is around it
        else:
            scopes.append(f"{last}.{part}" if name.startswith("/") else f"{last}/{part}")
    return scopes
