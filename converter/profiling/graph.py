"""The graph of a file as it is written: what its nodes read and write, and which layer each belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import onnx

from converter.onnxfile import OnnxFile
from converter.sources.onnx.scopes import scopes_of

__all__ = ["MOVERS", "PAIRED", "Written"]

# Operators that stand for no work of their own: they turn, cast, rename or (de)quantise what others compute.
PAIRED = frozenset(["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"])
MOVERS = PAIRED | frozenset(
    "Identity Cast CastLike Transpose Reshape Flatten Squeeze Unsqueeze Dropout Constant Shape Expand".split()
)
# What PyTorch's exporter calls the scope of what it adds itself.
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


class Written:
    """A file's graph in running order, each node in one row of the profile: a layer, or the node itself.

    Attributes:
        file: the file.
        nodes: its nodes, without large constants.
        edges: what they read and write, by numbers.
        rows: for each node the row that it belongs to; a node of constants alone belongs to its reader's.
    """

    def __init__(self, file: OnnxFile, by: str = "layer") -> None:
        """Name the rows.

        Args:
            file: the file.
            by: `layer`, a row for all nodes of one layer, or `node`.

        Raises:
            SourceError: the file's nodes do not fit together.
        """
        self.file = file
        self.edges = file.edges
        self.nodes: list[onnx.NodeProto] = list(file.nodes())
        own = self._layers() if by == "layer" else self._named()
        self.rows = self._settled(own)

    def constant(self, node: int) -> bool:
        """Whether a node depends on no input of the model: ONNX Runtime computes it once, when it loads."""
        return not any(value in self.varying for value in self.edges.writes[node])

    @cached_property
    def varying(self) -> frozenset[int]:
        """The values that depend on the contents of an input, on its sizes, or on chance."""
        found = set(self.edges.inputs)
        for node, reads in enumerate(self.edges.reads):
            if node in self.edges.random or not found.isdisjoint(reads):
                found.update(self.edges.writes[node])
        return frozenset(found)

    @cached_property
    def readers(self) -> dict[int, list[int]]:
        """Value → the nodes that read it."""
        found: dict[int, list[int]] = {}
        for node, reads in enumerate(self.edges.reads):
            for value in dict.fromkeys(reads):
                found.setdefault(value, []).append(node)
        return found

    @cached_property
    def ends(self) -> frozenset[int]:
        """The graph's outputs."""
        return frozenset(self.edges.ids[info.name] for info in self.file.outputs)

    def name_of(self, node: int) -> str:
        """A node's name, or that of the first tensor it puts out."""
        proto = self.nodes[node]
        return proto.name or next((name for name in proto.output if name), f"{proto.op_type} {node}")

    def _named(self) -> list[str | None]:
        """A name for each node; nodes of one name are calls, `name@0`, `name@1`."""
        names = [None if self.constant(n) else self.name_of(n) for n in range(len(self.nodes))]
        count: dict[str | None, int] = {}
        for name in names:
            count[name] = count.get(name, 0) + 1
        seen: dict[str, int] = {}
        for node, name in enumerate(names):
            if name is not None and count[name] > 1:
                names[node] = f"{name}@{seen.setdefault(name, 0)}"
                seen[name] += 1
        return names

    def _layers(self) -> list[str | None]:
        """The layer of each node; None for those that belong to whoever reads or makes their tensor."""
        found: list[str | None] = []
        for number, node in enumerate(self.nodes):
            scopes = [scope for scope in scopes_of(node) if scope != _NO_MODULE]
            noted = bool(node.metadata_props) and bool(scopes)
            if node.op_type in PAIRED and not noted:
                found.append(None)  # quantisers name these after tensors, `Conv1/Conv:0_QuantizeLinear`
            elif scopes:
                found.append(scopes[-1])
            elif self.constant(number):
                found.append(None)
            else:
                # A quantised operator that ONNX Runtime's quantiser put in the place of the one of that name.
                found.append(self.name_of(number).removesuffix("_quant"))
        return found

    def _settled(self, own: list[str | None]) -> list[str]:
        """Rows of nodes without one of their own: QuantizeLinear's is its producer's, others' a reader's."""
        rows = list(own)
        for node in range(len(rows)):
            if rows[node] is None and self.nodes[node].op_type.endswith("QuantizeLinear"):
                rows[node] = self._first(rows, (self.edges.producer.get(v, -1) for v in self._data(node)))
        for node in reversed(range(len(rows))):
            if rows[node] is None:
                rows[node] = self._first(
                    rows, (r for v in self.edges.writes[node] for r in self.readers.get(v, ()))
                )
        for node in range(len(rows)):  # of dequantised outputs of the model, and of what nobody reads
            if rows[node] is None:
                before = (self.edges.producer.get(v, -1) for v in self._data(node))
                rows[node] = self._first(rows, before) or self.name_of(node)
        return [row or self.name_of(node) for node, row in enumerate(rows)]

    def _data(self, node: int) -> tuple[int, ...]:
        return self.edges.reads[node][:1]

    @staticmethod
    def _first(rows: list[str | None], nodes: Iterable[int]) -> str | None:
        return next((rows[node] for node in nodes if node >= 0 and rows[node] is not None), None)

    def main(self, nodes: Iterable[int], macs: Callable[[int], int]) -> int | None:
        """The node that stands for several: most MACs, then no mere mover of data, then the first."""
        chosen = [n for n in nodes if not self.constant(n)]
        key = [(-macs(n), self.nodes[n].op_type in MOVERS, n) for n in chosen]
        return min(key)[2] if key else None
