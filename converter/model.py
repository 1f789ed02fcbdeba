"""What the stages pass to one another: plain data around an `onnx_ir.Model`.

No framework object appears here, so that a source can live in another process and the
rest of the program cannot tell.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from converter.onnxfile import Excerpt, OnnxFile

if TYPE_CHECKING:  # half a second to import, which cutting ONNX files does without
    import onnx_ir as ir

    from converter.edits import Edits

__all__ = [
    "CHANNELS_LAST",
    "LAYER",
    "LIFTED",
    "SCORES",
    "Array",
    "Boundary",
    "Dim",
    "Layer",
    "LayeredModel",
    "Outline",
    "Piece",
    "Place",
    "Plain",
    "Source",
    "SourceInfo",
    "TensorSpec",
    "is_glob",
    "matches",
]

# Key of the node metadata that says which layer of the source a node belongs to.
LAYER = "converter.layer"
# Key of the node metadata that marks operators whose data were turned to channels-last.
CHANNELS_LAST = "converter.channels_last"
# The domain of operators that ONNX spells out and frameworks have a layer for.
LIFTED = "converter.lifted"

# What is added to the name of a value of picked classes: the scores that they were picked by.
SCORES = "#scores"

_SEPARATOR = re.compile(r"([/.])")
Array = npt.NDArray[Any]
Dim = int | str
# Where a tensor appears when a model runs: (path of the layer, number of the call, path in its outputs).
Place = tuple[str, int, str]


def is_glob(pattern: str) -> bool:
    """Whether a name of layers is a shell-style glob."""
    return not set("*?[").isdisjoint(pattern)


def matches(name: str, pattern: str) -> bool:
    """Whether a shell-style glob matches a name; `*` stops at `/` and `.`."""
    parts, globs = _SEPARATOR.split(name), _SEPARATOR.split(pattern)
    return len(parts) == len(globs) and all(map(fnmatch.fnmatchcase, parts, globs))


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of a tensor that a model takes or puts out.

    Attributes:
        name: the name its author gave it.
        shape: sizes; a string is a symbolic size (`batch`).
        dtype: NumPy's name of the element type (`float32`, `int64`, `bool`, `bfloat16`).
        value_range: the range in which the model expects its values, where that is known.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    value_range: tuple[float, float] | None = None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of its arrays; ml_dtypes has those that NumPy lacks."""
        return np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))

    @property
    def onnx_type(self) -> ir.TensorType:
        """The type of the tensor in an ONNX graph."""
        import onnx_ir as ir

        return ir.TensorType(ir.DataType.from_numpy(self.numpy_dtype))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Boundary:
    """One tensor that a layer call puts out, in the source's own layout and dtype.

    Attributes:
        spec: the tensor, under the name that a piece cut here gives it.
        value: the name of the tensor in the layered graph, the same in every export of a model.
    """

    spec: TensorSpec
    value: str

    @staticmethod
    def value_at(place: Place) -> str:
        """The name of the tensor at a place."""
        path, index, key = place
        return f"boundary:{path}@{index}:{key}"

    @property
    def place(self) -> Place | None:
        """Where the tensor appears when the model runs; None for an output of the model."""
        found = re.fullmatch(r"boundary:(.*?)@(\d+):(.*)", self.value, re.DOTALL)
        return None if found is None else (found[1], int(found[2]), found[3])

    @property
    def name(self) -> str:
        return self.spec.name


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of a named unit of the source.

    Attributes:
        name: the author's name (`outer/inner` for nested models); `name@k` is call `k`
            of a layer that is called more than once.
        kind: the class's name (`Conv2D`).
        boundaries: the tensors it puts out, in order.
        parameters: number of scalar weights it owns, those of its sub-layers included.
        trainable: how many of them are trainable.
        depth: 0 for the model's own layers, 1 for those inside a nested model, …
    """

    name: str
    kind: str
    boundaries: tuple[Boundary, ...]
    parameters: int
    trainable: int
    depth: int

    @property
    def base(self) -> str:
        """The name without its call number."""
        return self.name.rpartition("@")[0] if "@" in self.name else self.name


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """Where a model comes from.

    Attributes:
        kind: `keras`, …
        name: the name to call folders and graphs by (`vgg16`).
        locator: what the user asked for, in full (`keras:vgg16`, `/tmp/net.keras`).
        weights: `pretrained`, `random(seed=N)`, `live`, or `sha256:…` of the file.
        trained: False when the weights are known to be initial ones.
    """

    kind: str
    name: str
    locator: str
    weights: str
    trained: bool

    @property
    def channels_last(self) -> bool | None:
        """Where the framework has the channels of images; None where its files do not tell."""
        return {"keras": True, "torch": False}.get(self.kind)


@dataclasses.dataclass(frozen=True)
class Outline:
    """The layers of a model as far as they are known without tracing or running it.

    Attributes:
        layers: in about the order of execution; shapes are those that the source has at hand, and a layer
            whose output is not known has no boundaries.
        around: name of a layer → the names of what it stands in, outermost first, where its own name does
            not say that.
        gaps: (place in `layers`, number of layers left out before it), where there are too many.
    """

    layers: tuple[Layer, ...]
    around: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    gaps: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass
class LayeredModel:
    """A model as an unoptimised ONNX graph in which every layer boundary is a tensor.

    Attributes:
        graph: the graph; initializers may be lazy.
        inputs: the model's inputs; the graph's inputs bear the same names.
        outputs: the model's outputs as boundaries.
        layers: every layer call, in the order of execution.
        anywhere: makes a boundary of any tensor of the graph, where it is not only layers that have them.
    """

    graph: ir.Model | OnnxFile
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[Boundary, ...]
    layers: tuple[Layer, ...]
    anywhere: Callable[[str], Boundary] | None = None

    @cached_property
    def _boundaries(self) -> dict[str, Boundary]:
        return {b.value: b for layer in self.layers for b in layer.boundaries}

    @cached_property
    def order(self) -> dict[str, int]:
        """Value of a layer's boundary → its place in the order of execution."""
        return {value: place for place, value in enumerate(self._boundaries)}

    def is_boundary(self, value: str) -> bool:
        """Whether the graph may be cut at this value."""
        return self.anywhere is not None or value in self._boundaries

    def boundary(self, value: str) -> Boundary | None:
        """The boundary that this value of the graph is."""
        found = self._boundaries.get(value)
        return self.anywhere(value) if found is None and self.anywhere is not None else found


@dataclasses.dataclass
class Piece:
    """Part of a model: a graph with the source's names at both ends.

    Attributes:
        role: `trunk`, `head`, `segment` or `model`; also the artifact's file stem.
        graph: the ONNX graph.
        inputs: the model's own inputs, then the tensors it starts from.
        outputs: the tensors it ends at, one for each of `ends`.
        starts: the boundaries among its inputs.
        ends: the boundaries that its outputs are.
    """

    role: str
    graph: ir.Model | Excerpt
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    starts: tuple[Boundary, ...]
    ends: tuple[Boundary, ...]

    @property
    def model_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that are inputs of the whole model."""
        return self.inputs[: len(self.inputs) - len(self.starts)]

    @property
    def nodes(self) -> int:
        """Number of nodes, those of inner graphs included; of an excerpt, without them."""
        if isinstance(self.graph, Excerpt):
            return self.graph.nodes
        return sum(len(graph) for graph in self.graph.graphs())

    @property
    def parameters(self) -> int:
        """Number of scalar weights: elements of the initializers."""
        if isinstance(self.graph, Excerpt):
            return self.graph.parameters
        weights = (value.const_value for value in self.graph.graph.initializers.values())
        return sum(weight.size for weight in weights if weight is not None)

    def __str__(self) -> str:
        ends = [", ".join(map(str, specs)) for specs in (self.inputs, self.outputs)]
        return f"{self.role}: ({ends[0]}) -> ({ends[1]}), {self.nodes} nodes"


@dataclasses.dataclass(frozen=True)
class Plain:
    """A piece drawn as the author of a model would draw it: an operator a layer, nothing fused.

    Attributes:
        role: `trunk`, `head`, `segment` or `model`.
        graph: the graph; its inner values have shapes where these can be inferred.
        inputs: what a model made of it takes.
        outputs: what it puts out.
        weights: initializers that are weights of the source, by name; the others are constants.
        frozen: those of them that the source does not train.
        turned: input or output whose axes are not in the source's order → the permutation that takes the
            source's tensor to the model's.
    """

    role: str
    graph: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: frozenset[str]
    frozen: frozenset[str] = frozenset()
    turned: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def opset(self, domain: str) -> int:
        """The version of a domain's operators."""
        return self.graph.opset_imports.get(domain, 1)

    @property
    def parameters(self) -> int:
        """Number of scalar weights."""
        found = ((name, v.const_value) for name, v in self.graph.graph.initializers.items())
        return sum(tensor.size for name, tensor in found if name in self.weights and tensor is not None)


class Source(Protocol):
    """The verbs that every framework's module offers; what crosses is plain data.

    `native` alone hands out a framework object, which only the framework's own target takes.
    """

    info: SourceInfo
    packages: tuple[str, ...]
    # Names of the weights of layers that `edited` put in.
    added: frozenset[str]
    # Besides `info.weights`, the names of the weights and the versions of the packages: all that decides what
    # the source exports. None where that cannot be told, as for live models.
    origin: str | None

    @property
    def beside(self) -> tuple[Path, ...]:
        """Files besides the one that `info.locator` names that the source is read from."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        ...

    @property
    def outputs(self) -> tuple[Boundary, ...]:
        """The model's outputs, under their own names."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer call in the order of execution."""
        ...

    def outline(self, most: int, near: Sequence[Boundary] = ()) -> Outline:
        """The layers as far as they are known at no cost: nothing is traced, run or inferred for it.

        Args:
            most: how many at most; what lies between the ends and `near` is left out of more.
            near: boundaries that were cut at.
        """
        ...

    def expect(self, names: Sequence[str], *, trunk: bool = True) -> None:
        """Say which layers are named next; no names: any. A trunk wants nothing that comes after them.

        A source may leave out of `layers`, `outputs` and `export` what comes after them. Boundaries that
        it has handed out stay good for `run` and `native`.
        """
        ...

    def export(self, sinks: Sequence[Boundary], opset: int) -> LayeredModel:
        """Translate what is needed to compute these boundaries, in about this opset."""
        ...

    def weights(self) -> Mapping[str, ir.TensorProtocol]:
        """The weights under the names of the initializers that export makes of them, read lazily."""
        ...

    def trainable(self) -> Mapping[str, str]:
        """The weights that training may change → the layer or module that owns each, in the model's order."""
        ...

    def frozen(self) -> Set[str]:
        """The names of those `weights` that training leaves alone as the model stands, statistics too."""
        ...

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """The framework's own answer for these inputs: an array for each `Boundary.value`."""
        ...

    def run64(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """What `run` gives where the framework keeps weights, inputs and sums in float64.

        Its own rounding is told by that. The model stays as it is; what its author computes in a dtype of
        his own keeps that.

        Raises:
            SourceError: the model cannot be had in float64, or does not run in it.
            UsageError: the source is an ONNX file, whose operators have no kernels for float64.
        """
        ...

    def edited(self, edits: Edits, info: SourceInfo) -> Source:
        """A source of the changed model, which is the framework's own and shares nothing with this one.

        Raises:
            CutError: layers that cannot be taken out or replaced, or that do not fit together afterwards.
            UsageError: a head that does not take what it would be given.
            TargetError: the framework cannot take the model apart.
        """
        ...

    def native(self, inputs: Sequence[str], starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Any:
        """The part between two cuts as a trainable model of the framework itself."""
        ...
