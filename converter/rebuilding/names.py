"""Names for the layers of a rebuilt model, taken from the source's weights and layers."""

from __future__ import annotations

import re

from converter.rebuilding.graph import Node

__all__ = ["Names", "identifier"]

# What a weight is called behind its layer's name, in the words of Keras, PyTorch and exporters.
_LAST = re.compile(
    r"^(.*?)[./_]?(?:kernel|weights?|bias|gamma|beta|scale|moving_mean|moving_variance|running_mean|running_var"
    r"|embeddings?|recurrent_kernel|alpha|mean|variance|var|W|B|w|b)(?:_quantized)?$"
)
# What this package calls a weight that it folded others into: `LAYER/OPERATOR/constant`.
_FOLDED = re.compile(r"^(.+)/\w+/constant(?:_\d+)?$")
# Names that exporters count through: they say nothing.
_MADE = re.compile(r"^(?:node|n|op|val)?_?\d*$|^(?:node_)?[A-Z]\w*_\d+$")
_CALL = re.compile(r"@\d+$")
_INDEX = re.compile(r":\d+$")


class Names:
    """Hands out the name of each layer once.

    A layer is called as the weights that it takes are called, without their last word; one without weights
    as the source's layer that its node belongs to; otherwise as its node.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def layer(self, node: Node, *inputs: int) -> str:
        """A dotted path for the layer that a node becomes, unused so far.

        Args:
            node: the node.
            inputs: its inputs that may be weights, the most telling first.
        """
        return self.fresh(_stem(node, inputs))

    def fresh(self, name: str) -> str:
        """A name like this one that is not taken, and that is neither above nor below one that is."""
        name = name or "layer"
        parts = name.split(".")
        if any(".".join(parts[:n]) in self._taken for n in range(1, len(parts))):
            name = "_".join(parts)  # below a layer there is no place for another
        unique, copy = name, 0
        while not self._free(unique):
            copy += 1
            unique = f"{name}_{copy}"
        self._taken.add(unique)
        return unique

    def _free(self, name: str) -> bool:
        parts = name.split(".")
        above = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        return not (above & self._taken) and not any(t.startswith(f"{name}.") for t in self._taken)


def _stem(node: Node, inputs: tuple[int, ...]) -> str:
    weights = [name for index in inputs if (name := node.weight(index)) is not None]
    for weight in weights:
        plain = _INDEX.sub("", weight)
        found = _FOLDED.match(plain) or _LAST.match(plain)
        if found is not None and found[1]:
            return dotted(found[1])
    if node.layer:
        return dotted(_CALL.sub("", node.layer))
    if node.raw.name and not _MADE.match(node.raw.name):
        return dotted(_scope(node.raw.name, node.op))
    return dotted(weights[0]) if weights else node.op


def _scope(name: str, op: str) -> str:
    """The module in a node's name as PyTorch's exporter wrote it: `/layer1/layer1.0/conv1/Conv`."""
    if not name.startswith("/"):
        return name
    parts = name.strip("/").split("/")
    if len(parts) > 1 and re.fullmatch(rf"{op}(_\d+)?", parts[-1]):
        parts.pop()
    return ".".join(
        part
        for place, part in enumerate(parts)
        if place + 1 == len(parts) or not parts[place + 1].startswith(f"{part}.")
    )


def dotted(name: str) -> str:
    """A path of identifiers and numbers, joined by dots."""
    parts = [part for part in re.split(r"[./:]+", name) if part]
    return ".".join(part if part.isdigit() else identifier(part) for part in parts)


def identifier(name: str) -> str:
    """The name as a Python identifier that is no keyword."""
    import keyword

    plain = re.sub(r"\W", "_", name)
    if not plain or plain[0].isdigit():
        plain = f"_{plain}"
    return f"{plain}_" if keyword.iskeyword(plain) else plain
