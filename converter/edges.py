"""What each node of a graph reads and writes, by numbers: all that cutting needs to know of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Edges", "is_random"]

_RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout".split()
)


def is_random(op_type: str, inputs: Sequence[str]) -> bool:
    """Whether such a node gives other values each time it runs, so that it must run once."""
    return op_type in _RANDOM and (op_type != "Dropout" or (len(inputs) > 2 and bool(inputs[2])))


class Edges:
    """A graph without its operators: values and nodes are numbers, nodes in an order in which they can run.

    Attributes:
        names: value → its name.
        ids: name → value.
        reads: node → the values that it reads, those that its inner graphs capture included.
        writes: node → the values that it computes.
        producer: value → its node; those of no node are missing.
        inputs: the graph's inputs that have to be fed.
        symbols: input → its symbolic sizes.
        random: nodes that give other values each time they run.
        quantized: output of QuantizeLinear → the nodes that dequantise it again.
        sizes: node → the symbolic size of an input, for nodes that compute nothing else.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ids: dict[str, int] = {}
        self.reads: list[tuple[int, ...]] = []
        self.writes: list[tuple[int, ...]] = []
        self.producer: dict[int, int] = {}
        self.inputs: list[int] = []
        self.symbols: dict[int, tuple[str, ...]] = {}
        self.random: set[int] = set()
        self.quantized: dict[int, list[int]] = {}
        self.sizes: dict[int, str] = {}
        self._varying: frozenset[int] | None = None

    def value(self, name: str) -> int:
        """The number of the value of this name."""
        number = self.ids.get(name)
        if number is None:
            number = self.ids[name] = len(self.names)
            self.names.append(name)
        return number

    def add_input(self, name: str, symbols: Iterable[str]) -> None:
        """Add an input of the graph, with its symbolic sizes."""
        value = self.value(name)
        self.inputs.append(value)
        self.symbols[value] = tuple(symbols)

    def add_node(self, reads: Sequence[str], writes: Sequence[str]) -> int:
        """Add a node; empty names are left out. Returns its number."""
        number = len(self.reads)
        ids, names = self.ids, self.names
        for name in (*reads, *writes):
            if name not in ids and name:
                ids[name] = len(names)
                names.append(name)
        self.reads.append(tuple([ids[name] for name in reads if name]))
        written = tuple([ids[name] for name in writes if name])
        self.writes.append(written)
        for output in written:
            self.producer[output] = number
        return number

    def before(self, value: int) -> tuple[int, ...]:
        """What a value is computed from directly."""
        node = self.producer.get(value)
        return () if node is None else self.reads[node]

    def upstream(self, values: Iterable[int]) -> set[int]:
        """The values, and everything they are computed from."""
        seen: set[int] = set()
        stack = list(values)
        producer, reads = self.producer, self.reads
        while stack:
            value = stack.pop()
            if value not in seen:
                seen.add(value)
                node = producer.get(value)
                if node is not None:
                    stack.extend(reads[node])
        return seen

    def nodes_for(self, ends: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
        """The nodes that compute `ends` where the values of `stop` are given."""
        seen = set(stop)
        stack = [value for value in ends if value not in seen]
        nodes: set[int] = set()
        producer, reads = self.producer, self.reads
        while stack:
            node = producer.get(stack.pop())
            if node is not None and node not in nodes:
                nodes.add(node)
                stack.extend([value for value in reads[node] if value not in seen])
        return nodes

    def varying(self, also: Iterable[int] = ()) -> frozenset[int]:
        """The values that depend on the contents of an input, on chance, or on one of `also`.

        The rest are constants, or computed from the sizes of inputs alone.
        """
        extra = set(also)
        if self._varying is not None and extra <= self._varying:
            return self._varying
        found = {*self.inputs, *extra}
        for node, reads in enumerate(self.reads):
            if node in self.random or (node not in self.sizes and not found.isdisjoint(reads)):
                found.update(self.writes[node])
        if not extra:
            self._varying = frozenset(found)
            return self._varying
        return frozenset(found)

    def symbols_of_constants(self, varying: frozenset[int]) -> dict[int, frozenset[str]]:
        """The symbolic sizes that each of the other values is computed from; none for constants."""
        found: dict[int, frozenset[str]] = {}
        for node, symbol in self.sizes.items():
            found[self.writes[node][0]] = frozenset([symbol])
        if not found:
            return found
        for node, reads in enumerate(self.reads):
            parts = [found[value] for value in reads if value in found]
            if parts and node not in self.sizes:
                merged = frozenset().union(*parts)
                found |= {value: merged for value in self.writes[node] if value not in varying}
        return found
