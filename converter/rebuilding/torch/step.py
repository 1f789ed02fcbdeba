"""What a rule sees of a model that is being written, and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from converter.model import Array, Plain
from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.table import Table
from converter.rebuilding.torch.counts import Number, Numbers
from converter.rebuilding.torch.text import atom, literal, short
from converter.rebuilding.torch.tree import access, safe

if TYPE_CHECKING:
    from converter.rebuilding.torch.writer import Writer

__all__ = ["Many", "Owned", "Result", "Rule", "Step", "table"]

_INLINE = 56


@dataclasses.dataclass(frozen=True)
class Many:
    """One expression for all outputs of a node."""

    text: str


# An expression for the one output, one for each of the outputs, or one for all of them.
Result = str | Sequence[str] | Many | Numbers
Rule = Callable[["Step"], Result]
table: Table[Rule] = Table("PyTorch")


@dataclasses.dataclass
class Owned:
    """Where a weight lives: how to reach it, and whether its axes are in reverse there."""

    text: str
    turned: bool = False


class Step:
    """What a rule sees: one node, and what its inputs are called.

    Args:
        plain: the graph.
        writer: what has been written.
        node: the node; None for the return statement.
        values: what is read.
    """

    def __init__(
        self, plain: Plain, writer: Writer, node: Node | None, values: list[ir.Value | None]
    ) -> None:
        self.plain = plain
        self.writer = writer
        self._node = node
        self.values = values

    @property
    def node(self) -> Node:
        """The node."""
        assert self._node is not None
        return self._node

    def refuse(self, problem: str) -> Unsupported:
        """The error for a node that cannot be expressed."""
        return Unsupported(self.node, problem)

    def has(self, index: int) -> bool:
        """Whether the node has that input."""
        return index < len(self.values) and self.values[index] is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attribute(name, default)

    def real(self, name: str, default: float = 0.0) -> str:
        """A float attribute as a literal."""
        return short(self.node.attribute(name, default))

    def used(self, index: int) -> bool:
        """Whether something reads that output."""
        outputs = self.node.outputs
        return index < len(outputs) and bool(outputs[index].uses() or outputs[index].is_graph_output())

    def known(self, index: int) -> Numbers | None:
        """An input as numbers, where Python knows it one by one."""
        value = self.values[index] if self.has(index) else None
        if value is None:
            return None
        if value in self.writer.numbers:
            return self.writer.numbers[value]
        if value.const_value is None or value.is_graph_input() or value.name in self.plain.weights:
            return None
        array = np.asarray(value.const_value.numpy())
        if array.ndim > 1 or array.size > 64 or array.dtype.kind not in "iubf":
            return None
        return Numbers(tuple(array.reshape(-1).tolist()), array.ndim == 0, array.dtype.name)

    def ints(self, index: int) -> list[Number] | None:
        """An input's integers where they are known at the time of writing, or as expressions."""
        numbers = self.known(index)
        return None if numbers is None else list(numbers.items)

    def fixed(self, index: int, what: str) -> list[int]:
        """An input's integers, which have to be constants.

        Raises:
            Unsupported: they are computed.
        """
        items = self.ints(index)
        if items is None or any(isinstance(item, str) for item in items):
            raise self.refuse(f"its {what} is computed, expected a constant")
        return [int(item) for item in items]

    def floats(self, index: int, what: str) -> list[float]:
        """An input's numbers, which have to be constants."""
        array = self.array(index)
        if array is None:
            raise self.refuse(f"its {what} is computed, expected a constant")
        return [float(item) for item in array.reshape(-1)]

    def listed(self, index: int) -> str:
        """An input's integers as a Python list, read from the tensor where they are computed."""
        items = self.ints(index)
        if items is None:
            return f"{self.atom(index)}.tolist()"
        return f"[{', '.join(map(str, items))}]"

    def scalar(self, index: int) -> str | None:
        """An input of one element as a literal or an expression; None where it is a tensor."""
        value = self.values[index] if self.has(index) else None
        if value is None:
            return None
        if value in self.writer.numbers:
            items = self.writer.numbers[value].items
            return str(items[0]) if len(items) == 1 else None
        if value.const_value is None or value.is_graph_input() or value.name in self.plain.weights:
            return None
        array = np.asarray(value.const_value.numpy())
        if array.size != 1 or array.dtype.kind not in "iubf":
            return None
        return literal(array.reshape(())[()])

    def number(self, index: int) -> str:
        """An input of one element as a Python number, read from the tensor where it is computed."""
        text = self.scalar(index)
        return f"{self.atom(index)}.item()" if text is None else text

    def operand(self, index: int, rank: int | None = None) -> str:
        """An input of an operator that broadcasts; a number where that changes neither dtype nor rank.

        Args:
            index: which.
            rank: the rank of what it is broadcast against.
        """
        value = self.values[index]
        text = self.scalar(index)
        own = None if value is None or value.shape is None else len(value.shape)
        if text is not None and (own == 0 or (own is not None and rank is not None and own <= rank)):
            return text
        return self.atom(index)

    def arg(self, index: int) -> str:
        """An input as an expression, to be used once."""
        value = self.values[index]
        assert value is not None
        writer = self.writer
        if writer.pending is not None and writer.pending[0] is value:
            short = len(writer.pending[1]) <= _INLINE
            if self._node is None or (list(self.values).count(value) == 1 and short):
                text = writer.pending[1]
                writer.pending = None
                return text
            writer.flush()
        return self._held(value)

    def atom(self, index: int) -> str:
        """The same, fit to stand beside an operator or before a dot."""
        return atom(self.arg(index))

    def name(self, index: int) -> str:
        """An input as a name, to be used as often as wanted."""
        value = self.values[index]
        assert value is not None
        if self.writer.pending is not None and self.writer.pending[0] is value:
            self.writer.flush()
        return self._held(value)

    def optional(self, index: int) -> str | None:
        """The same, or None."""
        return self.name(index) if self.has(index) else None

    def _held(self, value: ir.Value) -> str:
        writer = self.writer
        if value in writer.variables:
            return writer.variables[value]
        if value in writer.numbers:
            numbers = writer.numbers[value]
            items = ", ".join(map(str, numbers.items))
            inner = items if numbers.scalar else f"[{items}]"
            device = writer.device()
            on = f", device={device}" if device else ""
            return f"torch.tensor({inner}, dtype=torch.{numbers.dtype}{on})"
        if value.const_value is not None:
            return writer.hold(value)
        problem = f"its input {value.name!r} is not there"
        if self._node is None:
            raise AssertionError(problem)
        raise self.refuse(problem)

    def helper(self, name: str) -> str:
        """A function of `snippets`, which is then part of the text."""
        self.writer.helpers[name] = None
        return name

    @cached_property
    def rank(self) -> int:
        """The rank of the first input."""
        return self.node.rank(0)

    def size(self, index: int, axis: int) -> Number:
        """The size of an axis of an input: a number, or the name of a variable."""
        value, shape = self.values[index], self.node.shape(index)
        assert value is not None
        if shape is None:
            return f"{self.name(index)}.shape[{axis}]"
        if not isinstance(shape[axis], int) and value not in self.writer.variables:
            self.name(index)
        return self.writer.size(value, axis % len(shape), shape)

    # ------------------------------------------------------------ layers

    def array(self, index: int) -> Array | None:
        """An input that is a constant or a weight."""
        return self.node.constant(index) if self.has(index) else None

    def free(self, *indices: int) -> bool:
        """Whether these inputs, where the node has them, can be one layer's own."""
        for index in indices:
            value = self.values[index] if self.has(index) else None
            if value is None:
                continue
            if value.const_value is None or value.is_graph_input():
                return False
        return True

    def tensor(self, index: int, array: Array, *, turned: bool = False) -> str:
        """How to reach a weight that is a parameter of its own, stored as this array.

        Args:
            index: the input.
            array: what is stored.
            turned: whether its axes are in reverse there.
        """
        value = self.values[index]
        assert value is not None
        assert value.name is not None
        writer = self.writer
        if value.name not in writer.owned:
            writer.owned[value.name] = Owned(writer.parameter(value.name, array), turned)
        return writer.owned[value.name].text

    def layer(
        self, made: str, tensors: Mapping[str, tuple[int, Array]], turned: Sequence[str] = ()
    ) -> str | None:
        """How to reach a layer that holds these inputs; the same one for the same inputs.

        Args:
            made: the expression that makes it.
            tensors: name in the layer → input, array as the layer has it.
            turned: those whose axes the layer has in reverse.

        Returns:
            None where one of the weights has another owner already.
        """
        values = {name: self.values[index] for name, (index, _) in tensors.items()}
        key = (made, *((name, value.name) for name, value in values.items() if value is not None))
        writer = self.writer
        if key in writer.modules:
            return writer.modules[key]
        if any(v is not None and v.name in writer.owned for v in values.values()):
            return None
        path = safe(writer.names.layer(self.node, *(index for index, _ in tensors.values())))
        neutral, kept = [], []
        for name, (_, array) in tensors.items():
            value = values[name]
            if value is None or value.name is None:
                continue
            if value.name in self.plain.weights:
                writer.owned[value.name] = Owned(f"{access(path)}.{name}", name in turned)
                writer.keep(f"{path}.{name}", array, value.name)
            elif _neutral(name, array):
                neutral.append(name)
            else:
                kept.append(name)
                writer.keep(f"{path}.{name}", array, value.name)
        for names, persistent in ((neutral, False), (kept, True)):
            if names:
                words = ", ".join(f'"{name}"' for name in names)
                kind = ", persistent=True" if persistent else ""
                made = f"{self.helper('fixed')}({made}, {words}{kind})"
        writer.tree.put(path, made)
        writer.modules[key] = access(path)
        return access(path)


def _neutral(name: str, array: Array) -> bool:
    """Whether PyTorch's own normalizations start from this."""
    return bool((array == (1 if name in ("weight", "running_var") else 0)).all()) and array.ndim == 1
