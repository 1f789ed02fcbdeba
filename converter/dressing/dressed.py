"""A source with a dress on: what it takes, puts out, and answers is what its pieces do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.dressing.dress import AXES, Dress
from converter.dressing.ports import Port
from converter.errors import UsageError
from converter.imaging import Layout
from converter.model import Array, Boundary, Piece, Source, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Dressed", "dress"]

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Dressed:
    """Runs a source on what dressed pieces take; answers as they do.

    Attributes:
        inputs: the model's inputs as the pieces take them.
        outputs: the model's outputs, those excepted that classes were picked of.
        facts: what was put on, for reports.
        turned: name of an input or output whose axes are not in the source's order → the permutation.
    """

    def __init__(
        self, source: Source, ports: Mapping[str, Port], ends: Mapping[str, Port], facts: Mapping[str, Any]
    ) -> None:
        self.facts = facts
        self._source, self._ports, self._ends = source, ports, ends
        self.inputs = tuple(port.specs[0] for port in ports.values())
        self.outputs = tuple(
            boundary
            for own in source.outputs
            for boundary in (ends[own.value].boundaries if own.value in ends else (own,))
            if own.value not in ends or not ends[own.value].picks
        )
        both = [*ports.values(), *ends.values()]
        self.turned = {spec.name: list(port.perm) for port in both if port.perm for spec in port.specs}
        self._origin = {boundary.value: value for value, port in ends.items() for boundary in port.boundaries}

    def renamed(self, tables: Mapping[str, int]) -> dict[str, int]:
        """The same under the names that inputs have now."""
        return {port.specs[0].name: tables[name] for name, port in self._ports.items() if name in tables}

    def inward(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The source's own inputs."""
        return {name: port.inward(feeds[port.specs[0].name]) for name, port in self._ports.items()}

    def prepared(self, feeds: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Input of the model that is made of images → what the graph makes of them, and what NumPy does."""
        found = {}
        for name, port in self._ports.items():
            if port.prepared is not None:
                images = feeds[port.specs[0].name]
                found[name] = port.prepared(images), port.prepared.wanted(images)
        return found

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Any]:
        """The source's answers for what dressed pieces take, as these put them out."""
        origins = {self._origin.get(b.value, b.value): b for b in wanted}
        originals = [
            port.boundary if (port := self._ends.get(value)) is not None and port.boundary else boundary
            for value, boundary in origins.items()
        ]
        found: dict[str, Any] = {}
        for value, array in self._source.run(self.inward(feeds), originals).items():
            found |= self._ends[value].outward(array) if value in self._ends else {value: array}
        return found


def dress(source: Source, pieces: Sequence[Piece], inputs: Sequence[TensorSpec], wish: Dress) -> Dressed:
    """Put on pieces, in place, what is wished for.

    Args:
        source: whose pieces these are.
        pieces: graphs in memory, yet to be finished.
        inputs: the model's inputs.
        wish: what to put on.

    Returns:
        The source as the pieces see it now.

    Raises:
        UsageError: names, sizes or words that do not fit the pieces.
        TargetError: the graph's opset is too old for it.
    """
    dresser = _Dresser(source, pieces, inputs, wish)
    for piece in pieces:
        dresser.put_on(piece)
    return Dressed(source, dresser.ports, dresser.ends, dresser.wish.facts)


class _Dresser:
    def __init__(
        self, source: Source, pieces: Sequence[Piece], inputs: Sequence[TensorSpec], wish: Dress
    ) -> None:
        self.source, self.pieces, self.wish = source, pieces, wish
        taken = {spec.name for piece in pieces for spec in piece.model_inputs}
        self._in_use = [spec for spec in inputs if spec.name in taken]
        pre = self._assigned("preprocess", wish.preprocess, self._images())
        starts = {b.value for piece in pieces for b in piece.starts}
        last = [b for b in pieces[-1].ends if b.value not in starts]
        post = self._assigned("postprocess", wish.postprocess, [b.spec for b in last])
        self.wish = dataclasses.replace(wish, preprocess=pre, postprocess=post)
        self.ports = {
            spec.name: Port(
                spec,
                () if spec.name in pre else self._perm(spec, taken=True),
                pre.get(spec.name),
                channels_last=self._last(spec, taken=True),
            )
            for spec in inputs
        }
        crossing = [b for piece in pieces for b in (*piece.starts, *piece.ends)]
        self.ends = {
            b.value: Port(
                b.spec,
                self._perm(b.spec, taken=b.value in starts),
                None,
                post.get(b.name) if b.value not in starts else None,
                boundary=b,
            )
            for b in crossing
        }
        self._settle()

    def _settle(self) -> None:
        """Sizes and names, which are said of tensors as the pieces have them."""
        first = self.pieces[0]
        begins = [*self.ports.values(), *(self.ends[b.value] for b in first.starts)]
        used = [p for p in begins if p.boundary is not None or p.spec in self._in_use]
        sizes = self.wish.sizes([spec for port in used for spec in port.outer])
        names = [spec.name for port in (*self.ports.values(), *self.ends.values()) for spec in port.outer]
        for old in self.wish.renames:
            if old not in names:
                raise UsageError(
                    f"rename: nothing at the ends is called {old!r}", hint=f"names are {_list(names)}"
                )
        renames = self.wish.renames
        after = {name: renames.get(name, name) for name in dict.fromkeys(names)}
        for old, new in renames.items():
            if list(after.values()).count(new) > 1:
                raise UsageError(f"{old} cannot be called {new!r}: another input or output is")
        for group in (self.ports, self.ends):
            for key, port in group.items():
                group[key] = dataclasses.replace(port, sizes=sizes, renames=renames)

    def _images(self) -> list[TensorSpec]:
        found = []
        for spec in self._in_use:
            try:
                Layout.of(spec, channels_last=self._last(spec, taken=True))
            except UsageError:
                continue
            found.append(spec)
        return found

    def _assigned(self, what: str, words: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, Any]:
        """Name of a tensor → the words for it."""
        names = [spec.name for spec in specs]
        found = dict(words)
        if "" in found:
            if len(names) != 1:
                these = f"{len(names)} tensors could be meant: {', '.join(map(str, specs))}"
                none = "no input of this piece takes images" if what == "preprocess" else "nothing is put out"
                raise UsageError(
                    f"{what} {words['']}: {these if names else none}",
                    hint=f"--{what} NAME=WORDS" if names else None,
                )
            if names[0] in found:
                raise UsageError(f"{names[0]} is given twice: {found['']} and {found[names[0]]}")
            found[names[0]] = found.pop("")
        for name in found:
            if name not in names:
                raise UsageError(
                    f"{what}: no {'image goes in' if what == 'preprocess' else 'output is'} at {name!r}",
                    hint=f"names are {_list(names)}" if names else None,
                )
        return found

    # ------------------------------------------------------------ layout

    def _last(self, spec: TensorSpec, *, taken: bool) -> bool | None:
        """Whether the source has channels last there."""
        if self.source.info.kind != "onnx":
            return self.source.info.kind == "keras"
        return self._turns(spec.name, taken=taken)

    def _turns(self, name: str, *, taken: bool) -> bool:
        """Whether an ONNX graph, whose operators have channels first, turns a tensor where it comes in or
        goes out."""
        for piece in self.pieces:
            graph: Any = piece.graph
            for value in graph.graph.inputs if taken else graph.graph.outputs:
                if value.name != name:
                    continue
                beside = [use.node for use in value.uses()] if taken else [value.producer()]
                wanted = _TO_FIRST if taken else _TO_LAST
                if beside and all(node is not None and _perm_of(node) == wanted for node in beside):
                    return True
        return False

    def _perm(self, spec: TensorSpec, *, taken: bool) -> tuple[int, ...]:
        if not self.wish.layout or len(spec.shape) != 4:
            return ()
        wanted = AXES[self.wish.layout]
        if wanted == self._last(spec, taken=taken):
            return ()
        return _TO_LAST if wanted else _TO_FIRST

    # ------------------------------------------------------------ graphs

    def put_on(self, piece: Piece) -> None:
        """Change a piece's graph and what is said of its ends."""
        model: Any = piece.graph
        ins = [self.ports[s.name] for s in piece.model_inputs] + [self.ends[b.value] for b in piece.starts]
        outs = [self.ends[b.value] for b in piece.ends]
        for port in ins:
            if port.preprocess is not None:
                port.preprocess.build(model, port.spec, channels_last=port.channels_last)
            elif port.perm:
                _turn_input(model, port)
        for port in outs:
            if port.perm:
                _turn_output(model, port)
            if port.postprocess is not None:
                port.postprocess.build(model, port.turned)
        if self.wish.static:
            _forget_sizes(model)
        _rename(model, ins, outs)
        piece.inputs = tuple(port.specs[0] for port in ins)
        piece.outputs = tuple(spec for port in outs for spec in port.specs)
        piece.starts = tuple(self.ends[b.value].boundaries[0] for b in piece.starts)
        piece.ends = tuple(boundary for port in outs for boundary in port.boundaries)


def _list(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _perm_of(node: ir.Node) -> tuple[int, ...] | None:
    return tuple(node.attributes.get_ints("perm", ())) if node.op_type == "Transpose" else None


def _turn_input(model: ir.Model, port: Port) -> None:
    import onnx_ir as ir

    graph = model.graph
    value = next(value for value in graph.inputs if value.name == port.spec.name)
    place = list(graph.inputs).index(value)
    outer = ir.Value(name=port.spec.name, type=value.type, shape=ir.Shape(port.turned.shape))
    back = sorted(range(4), key=port.perm.__getitem__)
    node = ir.Node("", "Transpose", [outer], [ir.AttrInt64s("perm", back)], name=f"{port.spec.name}/turn")
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    node.outputs[0].name, value.name = f"{port.spec.name}/turned", f"{port.spec.name}/source"
    value.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    graph.inputs[place] = outer
    _first(graph, node)


def _first(graph: ir.Graph, node: ir.Node) -> None:
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)


def _turn_output(model: ir.Model, port: Port) -> None:
    import onnx_ir as ir

    graph = model.graph
    place, value = next((i, v) for i, v in enumerate(graph.outputs) if v.name == port.spec.name)
    node = ir.Node(
        "", "Transpose", [value], [ir.AttrInt64s("perm", list(port.perm))], name=f"{port.spec.name}/turn"
    )
    node.outputs[0].type, node.outputs[0].shape = value.type, ir.Shape(port.turned.shape)
    if not value.is_graph_input():
        value.name = f"{port.spec.name}/source"
    node.outputs[0].name = port.spec.name
    graph.append(node)
    graph.outputs[place] = node.outputs[0]


def _forget_sizes(model: ir.Model) -> None:
    """Inner sizes that were inferred from symbolic ones would stand in the way of fixed ones."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _rename(model: ir.Model, ins: Sequence[Port], outs: Sequence[Port]) -> None:
    """Give inputs and outputs their names and sizes."""
    import onnx_ir as ir

    graph = model.graph
    specs = {o.name: s for port in (*ins, *outs) for o, s in zip(port.outer, port.specs, strict=True)}
    ends = {value: specs[str(value.name)] for value in (*graph.inputs, *graph.outputs) if value.name in specs}
    taken = {spec.name for value, spec in ends.items() if value.name != spec.name}
    for value in _inner(model):
        if value.name in taken and value not in ends:
            _give_way(graph, value)
    for number, value in enumerate(ends):
        value.name = f"{value.name}#{number}"
    for value, spec in ends.items():
        value.name, value.shape = spec.name, ir.Shape(spec.shape)


def _inner(model: ir.Model) -> list[ir.Value]:
    found = [value for graph in model.graphs() for node in graph for value in node.outputs]
    return [*found, *(v for graph in model.graphs() for v in graph.initializers.values())]


def _give_way(graph: ir.Graph, value: ir.Value) -> None:
    """Another name for an inner value whose name is wanted at an end."""
    name = f"{value.name}#inner"
    if value.is_initializer():
        owner = value.graph
        assert isinstance(owner, type(graph))
        del owner.initializers[str(value.name)]
        value.name = name
        owner.register_initializer(value)
    else:
        value.name = name
