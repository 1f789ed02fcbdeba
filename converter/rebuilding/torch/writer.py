"""Writes the source of a module from a plain graph: a statement a layer, names used again when free."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.model import Array, Plain
from converter.rebuilding.graph import Node, nodes_of
from converter.rebuilding.names import Names, dotted, identifier
from converter.rebuilding.torch.counts import Number, Numbers, evaluate
from converter.rebuilding.torch.step import Many, Owned, Result, Step, table
from converter.rebuilding.torch.text import atom, literal, nested, statement, tuple_of
from converter.rebuilding.torch.tree import Tree, access, safe

__all__ = ["Writer", "lines"]

# Constants of so many elements are written into the text; longer ones are kept beside it.
_TINY = 12
_NAMES = ("x", "y", "z", "u", "v", "w")
_WORD = re.compile(r"[A-Za-z_]\w*")
_TAKEN = frozenset("self math torch nn F Tensor Block".split())


class Writer:
    """What has been written of a model so far.

    Args:
        plain: the graph.
        arguments: what `forward` calls its inputs.
    """

    def __init__(self, plain: Plain) -> None:
        self.plain = plain
        self.names = Names()
        self.tree = Tree()
        self.state: dict[str, Array] = {}
        self.constants: set[str] = set()
        self.frozen: list[str] = []
        self.helpers: dict[str, None] = {}
        self.lines: list[tuple[str, str]] = []  # target where it may be left out, statement
        self.owned: dict[str, Owned] = {}
        self.modules: dict[tuple[Any, ...], str] = {}
        self.numbers: dict[ir.Value, Numbers] = {}
        self.variables: dict[ir.Value, str] = {}
        self.pending: tuple[ir.Value, str] | None = None
        self._uses: Counter[ir.Value] = Counter()
        self._holders: dict[str, ir.Value] = {}
        self._sizes: dict[tuple[ir.Value, int], str] = {}
        self._words: set[str] = set()
        self._same: dict[str, Owned] = {}  # constants by their bytes: exporters write them once a layer
        self.arguments = self._arguments()
        for node in plain.graph.graph:
            self._uses.update(value for value in node.inputs if value is not None)
        self._uses.update(plain.graph.graph.outputs)

    def _arguments(self) -> list[str]:
        found = []
        for spec, value in zip(self.plain.inputs, self.plain.graph.graph.inputs, strict=True):
            name = self.word(identifier(spec.name.partition(":")[0]).strip("_").lower() or "x")
            found.append(name)
            self.variables[value] = name
        return found

    def word(self, wanted: str) -> str:
        """A name in `forward` that nothing else has."""
        wanted = identifier(wanted)
        name, copy = wanted, 1
        while name in self._words or name in _TAKEN:
            copy += 1
            name = f"{wanted}_{copy}"
        self._words.add(name)
        return name

    def write(self) -> list[str]:
        """The statements of `forward`.

        Raises:
            Unsupported: a node has no rule, or none that fits.
        """
        for node in nodes_of(self.plain):
            self._node(node)
        outputs = [self._returned(value) for value in self.plain.graph.graph.outputs]
        last = outputs[0] if len(outputs) == 1 else ", ".join(outputs)
        self.lines.append(("", f"return {last}"))
        return self._kept()

    def _returned(self, value: ir.Value) -> str:
        if len(self.plain.graph.graph.outputs) > 1:
            self.flush()
        return Step(self.plain, self, None, [value]).arg(0)

    def _kept(self) -> list[str]:
        """The statements without those for sizes that nobody reads."""
        read: set[str] = set()
        kept = []
        for target, text in reversed(self.lines):
            if target and target not in read:
                continue
            read.update(_WORD.findall(text.partition(" = ")[2] if target else text))
            kept.append(text)
        return kept[::-1]

    def _node(self, node: Node) -> None:
        if self.pending is not None and self.pending[0] not in node.inputs:
            self.flush()
        step = Step(self.plain, self, node, list(node.inputs))
        result: Result | None = None
        if node.domain == "" and node.op not in ("Shape", "Size"):
            known = [step.known(i) for i in range(len(node.inputs))]
            if any(v in self.numbers for v in node.inputs if v is not None):
                result = evaluate(node, known)
        if result is None:
            result = table.rule(node)(step)
        self.pending = None
        for value in node.inputs:
            if value is not None:
                self._uses[value] -= 1
        self._store(node, result)

    def _store(self, node: Node, result: Result) -> None:
        outputs = node.outputs
        if isinstance(result, Numbers):
            self.numbers[outputs[0]] = result
        elif isinstance(result, Many):
            self.flush()
            names = [self._name(v) if self._uses[v] else "_" for v in outputs]
            self.lines.append(("", f"{', '.join(names)}{',' * (len(names) == 1)} = {result.text}"))
        elif isinstance(result, str):
            self._single(outputs[0], result, node)
        else:
            texts = [(value, text) for value, text in zip(outputs, result, strict=False) if self._uses[value]]
            for value, text in texts:  # all read what the inputs' names hold now: no name is used again
                name = self.word("part")
                self.variables[value] = name
                self.lines.append(("", f"{name} = {text}"))

    def _single(self, value: ir.Value, text: str, node: Node) -> None:
        if not self._uses[value]:
            return
        if (
            text in self._holders
            and self._holders[text] in node.inputs
            and not self._uses[self._holders[text]]
        ):
            self._holders[text] = value
            self.variables[value] = text  # the same tensor under another name
            return
        self.pending = value, text
        if self._uses[value] != 1:
            self.flush()

    def flush(self) -> None:
        """Write what waits to become part of the next expression as a statement of its own."""
        if self.pending is None:
            return
        value, text = self.pending
        self.pending = None
        if text in self.arguments:
            self.variables[value] = text
            return
        name = self._name(value)
        if name != text:
            self.lines.append(("", f"{name} = {text}"))

    def _name(self, value: ir.Value) -> str:
        maker = value.producer()
        wanted = [self.variables.get(v) for v in maker.inputs if v is not None] if maker is not None else []
        free = {name for name, holder in self._holders.items() if self._uses[holder] <= 0}
        if value in self.variables:
            return self.variables[value]
        name = next((n for n in wanted if n in free), None)
        name = name or next((n for n in _NAMES if n in free), None)
        name = name or next((n for n in _NAMES if n not in self._words), None)
        name = name or next(iter(sorted(free)), None)
        if name is None:
            name = self.word("x")
        self._words.add(name)
        self._holders[name] = value
        self.variables[value] = name
        return name

    def size(self, value: ir.Value, axis: int, shape: Sequence[int | str | None]) -> Number:
        """The size of an axis: a number, or the name of a variable for it."""
        known = shape[axis]
        if isinstance(known, int):
            return known
        if (value, axis) not in self._sizes:
            if self.pending is not None and self.pending[0] is value:
                self.flush()
            stem = known if isinstance(known, str) and re.fullmatch(r"[a-z]{2,12}", known) else "size"
            name = self.word(stem)
            self.lines.append((name, f"{name} = {atom(self.variables[value])}.shape[{axis}]"))
            self._sizes[value, axis] = name
        return self._sizes[value, axis]

    def device(self) -> str | None:
        """Where new tensors go: where the inputs are."""
        return f"{self.arguments[0]}.device" if self.arguments else None

    def hold(self, value: ir.Value) -> str:
        """A constant or a weight as a tensor of the model's own."""
        assert value.name is not None
        assert value.const_value is not None
        owner = self.owned.get(value.name)
        if owner is None:
            array = np.asarray(value.const_value.numpy())
            weight = value.name in self.plain.weights
            key = "" if weight else f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
            owner = self._same.get(key)
            if owner is None:
                owner = Owned(
                    self.parameter(value.name, array) if weight else self._buffer(value.name, array)
                )
                self._same |= {} if weight else {key: owner}
            self.owned[value.name] = owner
        return f"{owner.text}.T" if owner.turned else owner.text

    def parameter(self, name: str, array: Array) -> str:
        """A new parameter under the name of a weight."""
        path = safe(self.names.fresh(dotted(re.sub(r":\d+$", "", name))))
        made = f"torch.empty({', '.join(map(str, array.shape)) or '()'}{_typed(array)})"
        trained = array.dtype.kind not in "iub"
        self.tree.put(path, f"nn.Parameter({made})" if trained else f"nn.Buffer({made})")
        self.keep(path, array, name)
        return access(path)

    def _buffer(self, name: str, array: Array) -> str:
        stem = re.sub(r"_{2,}|\d+$", "_", identifier(re.split(r"[/.]", name)[-1].partition(":")[0])).strip(
            "_"
        )
        path = safe(self.names.fresh(identifier(stem.lower() if 1 < len(stem) < 24 else "constant")))
        uniform = array.size > 1 and (array == array.reshape(-1)[0]).all()
        kind = f"dtype=torch.{array.dtype.name}"
        if uniform:
            made = f"torch.full({tuple_of(array.shape)}, {literal(array.reshape(-1)[0])}, {kind})"
        elif array.size <= _TINY and array.dtype.kind in "iubf":
            made = f"torch.tensor({nested(array) if array.size else '[]'}, {kind})"
            if not array.size:
                made = f"torch.empty({tuple_of(array.shape)}, {kind})"
        else:
            self.tree.put(path, f"nn.Buffer(torch.empty({tuple_of(array.shape)}, {kind}))")
            self.keep(path, array, name)
            return access(path)
        self.tree.put(path, f"nn.Buffer({made}, persistent=False)")
        return access(path)

    def keep(self, key: str, array: Array, name: str) -> None:
        """Note the array for a key of the state, and which initializer it is."""
        self.state[key] = array
        if name not in self.plain.weights:
            self.constants.add(key)
        elif name in self.plain.frozen:
            self.frozen.append(key)


def _typed(array: Array) -> str:
    return "" if array.dtype == np.float32 else f", dtype=torch.{array.dtype.name}"


def lines(statements: Sequence[str], indent: int) -> list[str]:
    """Statements as lines."""
    return [line for text in statements for line in statement(text, indent)]
