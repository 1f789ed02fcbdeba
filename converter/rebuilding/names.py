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
    for index in inputs:
        weight = node.weight(index)
        if weight is not None:
            found = _LAST.match(_INDEX.sub("", weight))
            if found is not None and found[1]:
                return dotted(found[1])
            return dotted(weight)
    if node.layer:
        return dotted(node.layer.rpartition("@")[0] if re.search(r"@\d+$", node.layer) else node.layer)
    return dotted(node.name)


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
