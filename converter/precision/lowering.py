"""A piece in less precision: where this package's ways begin."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import TargetError
from converter.finish.graphs import forget_shapes
from converter.finish.opset import lowest_ir_version, to_opset
from converter.model import Array, Piece
from converter.precision.dynamic import dynamic
from converter.precision.ends import Scale, quantize_ends
from converter.precision.half import HALVES, LARGEST, MOVERS, Half, in_floats, kept, overflowing, to_half
from converter.precision.kernels import has_kernel
from converter.precision.layers import AROUND, layers_of, nodes_of, note_layers
from converter.precision.measure import Feeds, answers, largest, parted, snr
from converter.precision.mixed import choose, sensitivities, shown
from converter.precision.ranges import Range, candidates
from converter.precision.settings import INT4_OPSET, Precision
from converter.precision.static import Static
from converter.precision.weights import to_int4
from converter.samples import count_of

__all__ = ["Lowered", "lower"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
# Samples to choose between ranges on, and to measure layers on: more take longer and say little more.
_MEASURED = 16
# By how much more than is asked for layers are chosen, in dB: held-out samples come out a little lower.
_MARGIN = 1.0
# Ranges that come out within so many dB are alike on other samples, but for what they cut off.
_ABOUT = 1.0
# Rounds of half precision in which operators that overflow are looked for.
_ROUNDS = 20


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A piece in less precision.

    Attributes:
        piece: the piece; the one that it was made of is left as it was.
        facts: what was done, for the report.
        scales: input or output that is quantized → what its levels mean.
        halved: outputs that are float16 where the source has float32.
    """

    piece: Piece
    facts: Mapping[str, Any]
    scales: Mapping[str, Scale] = dataclasses.field(default_factory=dict)
    halved: Collection[str] = ()

    def in_floats(self, run: Run) -> Run:
        """What takes and puts out the piece's own dtypes, as a function of the source's."""
        if self.facts["io"] == "float":
            return run
        taken = {spec.name: spec.numpy_dtype for spec in self.piece.inputs}

        def floats(feeds: Mapping[str, Array]) -> dict[str, Array]:
            fed = {n: self.scales[n].levels(x) if n in self.scales else x for n, x in feeds.items()}
            fed = {n: x.astype(taken[n]) if n in taken and x.dtype.kind == "f" else x for n, x in fed.items()}
            out = run(fed)
            out = {n: self.scales[n].numbers(x) if n in self.scales else x for n, x in out.items()}
            return {n: x.astype(np.float32) if n in self.halved else x for n, x in out.items()}

        return floats


def lower(
    piece: Piece,
    precision: Precision,
    feeds: Feeds,
    provider: str,
    scales: Mapping[str, Scale] | None = None,
) -> Lowered:
    """Make a finished piece one of less precision.

    Args:
        piece: the piece, a graph in memory.
        precision: what is asked for.
        feeds: inputs of the piece as the framework has them there, none of which is validated on.
        provider: ONNX Runtime's execution provider.
        scales: of inputs that another piece puts out in integers.

    Raises:
        UsageError: a layer to keep in float that is not there.
        TargetError: too few samples, nothing that could be quantized, a quality that cannot be reached.
    """
    return _Lowering(piece, precision, feeds, provider, scales or {}).run()


class _Lowering:
    def __init__(
        self,
        piece: Piece,
        precision: Precision,
        feeds: Feeds,
        provider: str,
        scales: Mapping[str, Scale],
    ) -> None:
        assert isinstance(piece.graph, ir.Model)
        self.given = scales
        self.piece, self.precision, self.feeds, self.provider = piece, precision, feeds, provider
        self.model = piece.graph.clone()
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(self.model)
        common.ShapeInferencePass(data_prop=True)(self.model)
        self.opset = self.model.opset_imports.get("", 1)
        self.layers = layers_of(self.model)
        around = {node for node, layer in self.layers.items() if layer in AROUND}
        self.leave = nodes_of(precision.keep, self.layers) | around
        self.facts: dict[str, Any] = {"piece": piece.role, "precision": precision.kind, "io": precision.io}
        self._note_kept(dict.fromkeys(sorted(self.leave), "asked for"))

    def run(self) -> Lowered:
        kind = self.precision.kind
        if kind in HALVES:
            return self._done(self._half(HALVES[kind]))
        if kind == "int8-dynamic":
            others = {str(node.name) for node in self.model.graph if not in_floats(node)}
            return self._done(self._quantized(dynamic(self.model, self.leave | others)))
        if kind == "int4-weights":
            return self._done(self._int4())
        return self._int8()

    def _done(self, model: ir.Model, scales: Mapping[str, Scale] | None = None) -> Lowered:
        note_layers(model, self.layers)
        common.RemoveUnusedNodesPass()(model)
        common.RemoveUnusedOpsetsPass()(model)
        forget_shapes(model)
        lowest_ir_version(model)
        ends = {value.name: value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}

        def spec(old: Any) -> Any:
            dtype = ends[old.name]
            return dataclasses.replace(old, dtype=str(dtype.numpy())) if dtype is not None else old

        piece = dataclasses.replace(
            self.piece,
            graph=model,
            inputs=tuple(map(spec, self.piece.inputs)),
            outputs=tuple(map(spec, self.piece.outputs)),
        )
        pairs = zip(self.piece.outputs, piece.outputs, strict=True)
        halved = {new.name for old, new in pairs if (old.dtype, new.dtype) == ("float32", "float16")}
        return Lowered(piece, self.facts, scales or {}, halved)

    def _note_kept(self, nodes: Mapping[str, str]) -> None:
        """Say which layers stay in float, wholly or with some of their operators, and why."""
        noted = self.facts.setdefault("kept", {})
        for node, reason in nodes.items():
            layer = self.layers.get(node, node)
            if layer not in AROUND and reason:
                noted.setdefault(layer, reason)

    # ------------------------------------------------------------ half precision

    def _half(self, dtype: ir.DataType) -> ir.Model:
        reasons = dict.fromkeys(self.leave, "asked for")
        fp16 = dtype == ir.DataType.FLOAT16
        exact = largest(self.model, self.feeds, self.provider) if fp16 else {}
        reasons |= overflowing(self.model, exact)
        ends = self.precision.io == "fp16"
        for value in self.model.graph.outputs if ends else ():
            top = exact.get(str(value.name), 0.0)
            if top > LARGEST:
                raise TargetError(
                    f"the output {value.name} reaches {top:.3g}, float16 ends at {LARGEST:g}",
                    hint="--io float",
                )
        half = Half(dtype, reasons, self.leave, ends)

        def runs(node: ir.Node) -> bool:
            return has_kernel(node, dtype, self.provider, self.opset)

        half = dataclasses.replace(half, keep=kept(self.model, half, self.opset, runs))
        for _ in range(_ROUNDS):
            made = self.model.clone()
            to_half(made, half, self.opset)
            lost = self._lost(made, exact) if fp16 else None
            if lost is None:
                break
            half = dataclasses.replace(half, keep={**half.keep, lost: "it overflows float16 inside"})
        self._note_kept({n: why for n, why in half.keep.items() if n in self.layers})
        stored = (value.const_value for value in made.graph.initializers.values())
        self.facts["weights"] = sum(1 for weight in stored if weight is not None and weight.dtype == dtype)
        floats = {str(node.name) for node in self.model.graph if in_floats(node)}
        self.facts["operators"] = len(floats - half.keep.keys())
        if not self.facts["operators"] and not self.facts["weights"]:
            raise self._nothing(
                f"is computed or stored in {dtype.name.lower()}", half.keep.values() if floats else ()
            )
        return made

    def _nothing(self, what: str, reasons: Iterable[str]) -> TargetError:
        """The error for a piece of which nothing is in less precision."""
        why = "; ".join(dict.fromkeys(filter(None, reasons)))
        return TargetError(
            f"nothing of the {self.piece.role} {what}: {why or 'it has no arithmetic in float32'}"
        )

    def _lost(self, made: ir.Model, exact: Mapping[str, float]) -> str | None:
        """The first node that puts out NaN or infinity where the float model does not."""
        found = largest(made, self.feeds, self.provider)
        for node in made.graph:
            if node.name not in self.layers:
                continue
            for value in node.outputs:
                name = str(value.name)
                if math.isinf(found.get(name, 0)) and math.isfinite(exact.get(name, 0)):
                    return str(node.name)
        return None

    # ------------------------------------------------------------ integers

    def _int4(self) -> ir.Model:
        model = self.model
        if self.opset < INT4_OPSET:
            to_opset(model, INT4_OPSET)
        done = to_int4(model, self.leave)
        if not done:
            raise TargetError(
                f"no weight of the {self.piece.role} can be stored in 4 bits: convolutions and products with "
                "constant matrices of 1 KiB and more are",
            )
        self.facts["operators"] = len(done)
        return model

    def _quantized(self, model: ir.Model) -> ir.Model:
        """The model, of which something has to be in integers; with what is not."""
        integers = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"}
        inside = [n for n in model.graph if n.op_type in integers or _reads_levels(n)]
        if not inside:
            raise self._unquantized()
        self.facts["operators"] = len(inside)
        if self.precision.calibrated:
            rest = [n for n in model.graph if n.name in self.layers and _computes(n) and n not in inside]
            self._note_kept(dict.fromkeys(self._static.coarse, "int8 is too coarse for a Softmax"))
            self._note_kept(dict.fromkeys(self._static.behind, "it cuts off what an output keeps"))
            self._note_kept({str(node.name): self._why_float(node) for node in rest})
        return model

    def _unquantized(self) -> TargetError:
        """The error for a piece of which nothing is in integers."""
        nodes = [node for node in self.model.graph if in_floats(node) and node.op_type not in MOVERS]
        left = {node.op_type for node in nodes if node.name in self.leave}
        others = {node.op_type for node in nodes} - left
        parts = [f"{', '.join(sorted(left))} shall stay in float"] if left else []
        parts += [f"ONNX Runtime has no int8 kernels of {', '.join(sorted(others))}"] if others else []
        why = "; ".join(parts) or "it has no arithmetic in float32"
        return TargetError(
            f"nothing of the {self.piece.role} can be quantized: {why}",
            hint="--precision fp16" if others else None,
        )

    def _why_float(self, node: ir.Node) -> str:
        """Why a node was not quantized, which nobody asked for."""
        known = node.op_type in self._static.known
        return "beside layers in float" if known else f"no int8 kernel of {node.op_type}"

    def _int8(self) -> Lowered:
        able = (n for n in self.model.graph if n.op_type in self._static.known and in_floats(n))
        if all(node.name in self.leave for node in able):
            raise self._unquantized()
        name, ranges, leave = self._ranges()
        self.facts["calibration"] = name
        if self.precision.kind == "mixed":
            leave = self._mixed(ranges)
        ranges = self._on_all(name, ranges)
        model = self._quantized(self._static.quantized(ranges, leave))
        scales = quantize_ends(model, ranges, self.given) if self.precision.io == "int8" else {}
        if scales:
            self.facts["scales"] = {name: dataclasses.asdict(scale) for name, scale in scales.items()}
        return self._done(model, scales)

    @cached_property
    def _static(self) -> Static:
        return Static(self.model)

    @cached_property
    def _parts(self) -> tuple[Feeds, Feeds]:
        """Samples to set ranges by, and to choose by."""
        chooses = self.precision.kind == "mixed" or self.precision.method in ("auto", "percentile")
        if not chooses:
            return self.feeds, self.feeds
        fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in self.piece.inputs)
        return parted(self.feeds, fixed=fixed)

    @cached_property
    def _some(self) -> list[Mapping[str, Array]]:
        """Batches to choose by."""
        found: list[Mapping[str, Array]] = []
        count = 0
        for batch in self._parts[1]:
            if count >= _MEASURED:
                break
            count += count_of(batch)
            found.append(batch)
        return found

    @cached_property
    def _exact(self) -> Sequence[Mapping[str, Array]]:
        return answers(self.model, self._some, self.provider)

    def _measured(self, ranges: Mapping[str, Range], leave: set[str]) -> float:
        """The SNR in dB."""
        return snr(answers(self._static.quantized(ranges, leave), self._some, self.provider), self._exact)

    def _ranges(self) -> tuple[str, dict[str, Range], set[str]]:
        """The ranges that cut off least of those that are about the best by what comes out, with their
        name."""
        method = self.precision.method
        made = dict(candidates(self._static.proto, self._parts[0], method, self.provider))
        tried = {name: self._measured(ranges, self.leave) for name, ranges in made.items()}
        self.facts["tried"] = {name: shown(found) for name, found in tried.items()}
        chosen = next(name for name, found in tried.items() if found >= max(tried.values()) - _ABOUT)
        return chosen, made[chosen], self.leave

    def _on_all(self, name: str, ranges: dict[str, Range]) -> dict[str, Range]:
        """The ranges that were chosen, set by all samples: to choose some were kept back."""
        if self._parts[0] is self.feeds:
            return ranges
        method = name.split()[0]
        return dict(candidates(self._static.proto, self.feeds, method, self.provider))[name]

    def _mixed(self, ranges: Mapping[str, Range]) -> set[str]:
        """The nodes to leave in float for the outputs to reach the quality."""
        wanted = float(self.precision.min_snr or 0.0) + _MARGIN
        known = self._static.known
        free = {str(n.name) for n in self.model.graph if n.op_type in known} - self.leave
        layers = list(dict.fromkeys(layer for node, layer in self.layers.items() if node in free))
        found: dict[frozenset[str], float] = {}

        def quality(kept: frozenset[str]) -> float:
            if kept not in found:
                out = {node for node, layer in self.layers.items() if layer in kept}
                found[kept] = self._measured(ranges, self.leave | out)
            return found[kept]

        if quality(frozenset()) >= wanted:
            self.facts["sensitivity"] = {}
            return self.leave
        alone = sensitivities(layers, quality)
        self.facts["sensitivity"] = {layer: shown(level) for layer, level in alone.items()}
        chosen = choose(list(alone), quality, wanted)
        # What adds no noise at all, such as a Reshape alone, is no layer in int8.
        if chosen is None or math.isinf(quality(chosen)):
            raise TargetError(
                f"no layer of the {self.piece.role} can be in int8 at {self.precision.min_snr:g} dB",
                hint="--precision fp16, or a lower --min-snr",
            )
        self._note_kept({node: "sensitive" for node, layer in self.layers.items() if layer in chosen})
        return self.leave | {node for node, layer in self.layers.items() if layer in chosen}


def _reads_levels(node: ir.Node) -> bool:
    """Whether a node reads what was quantized."""
    producers = (value.producer() for value in node.inputs if value is not None)
    return any(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)


def _computes(node: ir.Node) -> bool:
    """Whether a node computes with floats, and does not only move them or work out sizes."""
    floats = any(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs)
    return floats and node.op_type not in (*MOVERS, "QuantizeLinear", "DequantizeLinear")
