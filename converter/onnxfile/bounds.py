"""What a small ONNX file may ask for: bounds on local functions, on tensors, on what inference reckons with.

A file of some hundred bytes can call functions that call functions until they make a billion nodes, or fill
a tensor of terabytes. Both are found here before anybody writes functions out, folds constants or runs it.
"""

from __future__ import annotations

import math
import os
import resource
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import onnx

from converter.errors import SourceError
from converter.onnxfile.index import inner_graphs
from converter.onnxfile.tensors import BITS

__all__ = ["check_functions", "inferred", "is_long", "memory_limit", "refuse_large"]

# Nodes of one call once functions are written out, and calls within calls: exporters make thousands and ten.
_MOST_NODES, _DEEPEST = 1 << 20, 64
# Elements of a vector whose values ONNX's inference may follow: it keeps some hundred bytes for each.
_FOLLOWED = 1 << 20
_AXES = 64
_MODEL = "the model asks for more than there is"

_Key = tuple[str, str, str]


def check_functions(functions: Sequence[onnx.FunctionProto]) -> None:
    """Refuse local functions that call themselves, or become too many nodes once they are written out.

    Raises:
        SourceError: also where two have one name, or one has weights in other files.
    """
    bodies = {(f.domain, f.name, f.overload): f for f in functions}
    twice = [
        key for key, count in Counter((f.domain, f.name, f.overload) for f in functions).items() if count > 1
    ]
    if twice:
        raise SourceError(f"two functions of the file are called {'.'.join(filter(None, twice[0]))!r}")
    calls = {key: Counter(_called(body.node)) for key, body in bodies.items()}
    sizes: dict[_Key, tuple[int, int]] = {}
    for key in bodies:
        _measure(key, calls, sizes)


def _called(nodes: Iterable[onnx.NodeProto]) -> Iterator[_Key]:
    """What each node calls, those of inner graphs included."""
    for node in nodes:
        yield node.domain, node.op_type, node.overload
        for graph in inner_graphs(node):
            yield from _called(graph.node)


def _measure(start: _Key, calls: dict[_Key, Counter[_Key]], sizes: dict[_Key, tuple[int, int]]) -> None:
    """Nodes of a function once those it calls are written out, and how deep these go, into `sizes`."""
    path: dict[_Key, None] = {}
    stack = [start]
    while stack:
        key = stack[-1]
        if key in sizes:
            stack.pop()
            path.pop(key, None)
            continue
        inner = [other for other in calls[key] if other in calls]
        waiting = [other for other in inner if other not in sizes]
        path[key] = None
        if not waiting:
            count = sum(times * sizes.get(other, (1, 0))[0] for other, times in calls[key].items())
            depth = 1 + max((sizes[other][1] for other in inner), default=0)
            _refuse_measure(key, count, depth)
            sizes[key] = count, depth
        elif any(other in path for other in waiting):
            raise SourceError(f"the file's function {key[1]!r} calls itself")
        else:
            stack.append(waiting[0])


def _refuse_measure(key: _Key, count: int, depth: int) -> None:
    if count > _MOST_NODES:
        raise SourceError(
            f"the file's function {key[1]!r} becomes more than {_MOST_NODES:,} nodes", hint=_MODEL
        )
    if depth > _DEEPEST:
        raise SourceError(
            f"the file's function {key[1]!r} calls functions more than {_DEEPEST} deep", hint=_MODEL
        )


def memory_limit() -> int:
    """Bytes that this process may use at most: what the machine has, or what the process is limited to."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def refuse_large(infos: Iterable[onnx.ValueInfoProto]) -> None:
    """Refuse tensors that are larger than the memory there is, symbolic sizes taken as 1.

    Raises:
        SourceError: one of them is, or has more axes than any runtime knows.
    """
    most = memory_limit()
    for info in infos:
        tensor = info.type.tensor_type
        if len(tensor.shape.dim) > _AXES:
            raise SourceError(
                f"the tensor {info.name!r} has {len(tensor.shape.dim)} axes, at most {_AXES} are read"
            )
        size = math.prod(max(dim.dim_value, 1) for dim in tensor.shape.dim)
        nbytes = size * BITS.get(tensor.elem_type, 32) // 8
        if nbytes > most:
            raise SourceError(
                f"the tensor {info.name!r} would have {nbytes / 1e9:,.0f} GB, more than the "
                f"{most / 1e9:,.0f} GB of memory there are"
            )


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX's shape inference, following the values of sizes where that is no danger.

    Raises:
        SourceError: a tensor is larger than the memory there is.
        onnx.shape_inference.InferenceError, ValueError, RuntimeError: types that contradict each other.
    """
    # Following values makes the vectors that Range and Concat make, a hundred bytes a number: shapes first.
    plain = onnx.shape_inference.infer_shapes(model)
    found = list(_values(plain.graph))
    refuse_large(found)
    if any(is_long(info) for info in found):
        return plain
    full = onnx.shape_inference.infer_shapes(model, data_prop=True)
    refuse_large(_values(full.graph))
    return full


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.value_info
    yield from graph.output
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from _values(inner)


def is_long(info: onnx.ValueInfoProto) -> bool:
    """Whether a tensor is a vector of more numbers than inference may follow."""
    dims = info.type.tensor_type.shape.dim
    return len(dims) == 1 and dims[0].dim_value > _FOLLOWED
