"""The blocks that can be dropped: one tensor goes in, and one of the same shape and dtype comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from converter.edits import Region, bridge, within
from converter.errors import CutError
from converter.model import Layer, LayeredModel, is_glob
from converter.onnxfile import OnnxFile
from converter.ranking.graph import Graph
from converter.ranking.groups import groups
from converter.surgery import select_layers

__all__ = ["Candidate", "candidates"]

GROUP = "group"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A block that can be left out of a model.

    Attributes:
        drop: what to drop for it (`--drop`): names of layers, or a glob.
        layers: names of the layers that this means, none inside of another.
        kind: the layer's class or operator; `group` for several layers.
        parameters: elements of the weights that its layers own.
        depth: how far down it begins, from 0 to 1: the place of its first node in running order.
        nodes: numbers of the nodes that compute it.
        bridges: (tensor that goes in, tensor that comes out), by their names in the graph; a layer that is
            called several times may have several.
    """

    drop: tuple[str, ...]
    layers: tuple[str, ...]
    kind: str
    parameters: int
    depth: float
    nodes: frozenset[int]
    bridges: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return " + ".join(self.drop)


def candidates(model: LayeredModel, patterns: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """The blocks of a model that can be dropped, in order of depth.

    Layers, with everything inside of them; of layers that lie side by side also those whose names begin alike
    (`conv4_block3_*`); and a block together with the layer that adds it to its own input (`block5_*` and
    `add_3`), for without that layer the input would be added to itself. Of blocks that compute the same the
    outermost is taken. What only passes its input on is none.

    Without patterns, blocks inside of others are left out, except that of a stack of blocks of one kind the
    blocks are taken and not the stack (`encoder.layers.0` … for `encoder`). Blocks without a kernel (a weight
    of two or more axes) are left out where there are others: to drop a normalisation saves next to nothing.

    Args:
        model: the layered model, whole.
        patterns: names of layers, globs, ranges: only these, and all of these that can be dropped; and groups
            of which they name every layer.

    Raises:
        CutError: nothing can be dropped, a pattern names nothing, or a named layer cannot be dropped.
    """
    graph = Graph(model)
    finder = _Finder(graph)
    found = finder.found()
    if patterns:
        found = _named(found, finder, patterns)
    else:
        found = [each for each in found if not graph.kernels.isdisjoint(each.nodes)] or found
    if not found:
        raise CutError(
            "no layer of this model can be dropped: none takes one tensor and puts out one of the same shape",
            hint="`converter layers` lists the layers with what they put out",
        )
    exact = frozenset(pattern for pattern in patterns if not is_glob(pattern) or pattern in finder.globs)
    listed = _listed(graph, _distinct(found), exact, chosen=bool(patterns))
    return tuple(sorted(listed, key=lambda each: (each.depth, -len(each.nodes))))


def _named(found: Sequence[Candidate], finder: _Finder, patterns: Sequence[str]) -> list[Candidate]:
    """The candidates of which the patterns name every layer."""
    wanted: set[str] = set()
    for pattern in patterns:
        named = {layer.base for layer in select_layers([pattern], finder.graph.model.layers)}
        wanted |= named
        if not is_glob(pattern):
            refused = [finder.refused[name] for name in sorted(named) if name in finder.refused]
            if refused:
                raise refused[0]
    kept = [each for each in found if wanted.issuperset(each.layers)]
    if not kept:
        reasons = [finder.refused[name] for name in sorted(wanted) if name in finder.refused]
        first = f"; {reasons[0].message}" if reasons else ""
        raise CutError(f"none of the {len(wanted)} layers of {', '.join(patterns)} can be dropped{first}")
    return kept


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """Of candidates that compute the same the one with the outermost name, and a layer before a group."""

    def outermost(candidate: Candidate) -> tuple[int, bool, bool, bool, int]:
        first = candidate.drop[0]
        places = sum(first.count(letter) for letter in "/.")
        return len(candidate.drop), candidate.kind == GROUP, "[" in first, candidate.kind != "scope", places

    best: dict[frozenset[int], Candidate] = {}
    for candidate in sorted(found, key=outermost):
        best.setdefault(candidate.nodes, candidate)
    return list(best.values())


def _listed(
    graph: Graph, found: Sequence[Candidate], exact: Collection[str], *, chosen: bool
) -> list[Candidate]:
    """The candidates without those inside of others, largest first.

    Args:
        graph: the graph.
        found: distinct candidates.
        exact: names and globs that are listed in any case.
        chosen: only groups hide what is inside of them, for the rest was asked for by name.
    """
    stacks = _Stacks(graph, found)
    listed: list[Candidate] = []
    around: dict[int, set[int]] = {}
    for candidate in sorted(found, key=lambda each: -len(each.nodes)):
        if candidate.name not in exact:
            if set.intersection(*(around.get(node, set()) for node in candidate.nodes)):
                continue
            if (not chosen or candidate.kind == GROUP) and stacks.is_stack(candidate):
                continue
        if not chosen or candidate.kind == GROUP:
            for node in candidate.nodes:
                around.setdefault(node, set()).add(len(listed))
        listed.append(candidate)
    return listed


class _Finder:
    """Makes candidates of layers and groups.

    Attributes:
        graph: the graph.
        refused: layer → why it cannot be dropped.
        globs: of the groups.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.refused: dict[str, CutError] = {}
        self.globs: set[str] = set()
        self._layers: dict[str, list[Layer]] = {}
        for layer in graph.model.layers:
            self._layers.setdefault(layer.base, []).append(layer)
        self._order = {number: place for place, number in enumerate(sorted(graph.computing))}
        self._owner = self._owners()

    def found(self) -> list[Candidate]:
        """Every candidate, in no order, those that compute the same included."""
        found = [c for name in self._layers if (c := self._of_layer(name)) is not None]
        for glob, names in groups(self._layers).items():
            candidate = self._of_group((glob,), _outermost(names))
            if candidate is not None:
                self.globs.add(glob)
                found.append(candidate)
        return found + [closed for c in found if (closed := self._with_sum(c)) is not None]

    def _of_layer(self, name: str) -> Candidate | None:
        nodes = self.graph.members[name]
        try:
            if any(len(layer.boundaries) != 1 for layer in self._layers[name]):
                count = max(len(layer.boundaries) for layer in self._layers[name])
                raise CutError(f"{name} cannot be dropped: it puts out {count} tensors")
            if self.graph.computing.isdisjoint(nodes):
                raise CutError(
                    f"{name} computes nothing of what the model puts out: dropping it changes nothing"
                )
            return self._made((name,), (name,), self._layers[name][0].kind, nodes, self.graph.regions(nodes))
        except CutError as error:
            self.refused[name] = error
            return None

    def _of_group(self, drop: tuple[str, ...], names: tuple[str, ...]) -> Candidate | None:
        nodes = dict.fromkeys(number for name in names for number in self.graph.members[name])
        if len(names) < 2 or self.graph.computing.isdisjoint(nodes):
            return None
        regions = self.graph.regions(nodes)
        if len(regions) != 1 or len(regions[0].writes) != 1:
            return None
        try:
            return self._made(drop, names, GROUP, list(nodes), regions)
        except CutError:
            return None

    def _made(
        self,
        drop: tuple[str, ...],
        names: tuple[str, ...],
        kind: str,
        nodes: Sequence[int],
        regions: Sequence[Region],
    ) -> Candidate:
        """A candidate.

        Raises:
            CutError: there is no bridge over a region.
        """
        graph = self.graph
        pairs = [bridge(drop, region, graph.described) for region in regions]
        for given, _ in pairs:
            shown, (_, dtype) = graph.described(given)
            if "float" not in dtype:
                raise CutError(f"{names[0]} cannot be ranked: {shown} are no floating-point numbers")
        computing = frozenset(graph.computing.intersection(nodes))
        values = graph.edges.names
        return Candidate(
            drop=drop,
            layers=names,
            kind=kind,
            parameters=sum(map(self._parameters, names)),
            depth=min(self._order[node] for node in computing) / max(len(self._order) - 1, 1),
            nodes=computing,
            bridges=tuple((values[given], values[out]) for given, out in pairs),
        )

    def _with_sum(self, block: Candidate) -> Candidate | None:
        """A block with the layer that alone reads what it puts out, and besides only what goes into it."""
        if len(block.bridges) != 1:
            return None
        given, out = (self.graph.edges.ids[name] for name in block.bridges[0])
        owners = {self._owner.get(node) for node in self.graph.readers(out)}
        name = owners.pop() if len(owners) == 1 else None
        if name is None or name in block.layers or out in self.graph.ends:
            return None
        members = self.graph.members[name]
        regions = self.graph.regions(members)
        if len(regions) != 1 or set(regions[0].reads) != {given, out}:
            return None
        return self._of_group((*block.drop, name), (*block.layers, name))

    def _owners(self) -> Mapping[int, str]:
        """Node → the innermost layer that it belongs to."""
        owner: dict[int, str] = {}
        members = self.graph.members
        for name in sorted(members, key=lambda name: -len(members[name])):
            owner |= dict.fromkeys(members[name], name)
        return owner

    def _parameters(self, name: str) -> int:
        """Elements of a layer's weights: calls of a layer share them, nodes of one name in a file do not."""
        counts = [layer.parameters for layer in self._layers[name]]
        return sum(counts) if isinstance(self.graph.model.graph, OnnxFile) else max(counts)


def _outermost(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(n for n in names if not any(n != other and within(n, other) for other in names))


class _Stacks:
    """Tells stacks of like blocks, whose parts are what one would drop, from blocks."""

    def __init__(self, graph: Graph, found: Sequence[Candidate]) -> None:
        self._graph = graph
        self._by_first: dict[int, list[Candidate]] = {}
        for candidate in sorted(found, key=lambda each: -len(each.nodes)):
            self._by_first.setdefault(min(candidate.nodes), []).append(candidate)

    def is_stack(self, candidate: Candidate) -> bool:
        """Whether most of its weights are those of blocks of one kind and of like size, one after another.

        Or those of one such stack inside of it, with something small ahead or behind.
        """
        if not candidate.parameters or len(candidate.bridges) != 1:
            return False
        inner = [each for each in self._inside(candidate) if self._in_series(each, candidate)]
        for kind in {each.kind for each in inner}:
            sizes = [each.parameters for each in inner if each.kind == kind]
            like = [size for size in sizes if 2 * size >= max(sizes)]
            if len(like) > 1 and 2 * sum(like) >= candidate.parameters:
                return True
        return any(2 * each.parameters >= candidate.parameters and self.is_stack(each) for each in inner)

    def _inside(self, candidate: Candidate) -> list[Candidate]:
        """The largest candidates inside of one."""
        inside = [each for node in candidate.nodes for each in self._by_first.get(node, ())]
        inside = [each for each in inside if each.nodes < candidate.nodes]
        taken: set[int] = set()
        largest = []
        for each in sorted(inside, key=lambda each: -len(each.nodes)):
            if taken.isdisjoint(each.nodes):
                taken |= each.nodes
                largest.append(each)
        return largest

    def _in_series(self, inner: Candidate, outer: Candidate) -> bool:
        """Whether all that goes through the one goes through the other, too."""
        ids = self._graph.edges.ids
        given, out = (ids[name] for name in outer.bridges[0])
        return not self._graph.joined(given, out, outer.nodes - inner.nodes)
