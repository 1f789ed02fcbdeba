"""ExportedPrograms (`.pt2`) as sources: unflattened again into the modules that they were traced from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.model import Dim, SourceInfo, TensorSpec
from converter.sources.digest import sha256_of
from converter.sources.torch import backend
from converter.sources.torch.signature import Signature
from converter.sources.torch.source import TorchSource

__all__ = ["from_program", "open_exported"]


def open_exported(path: Path, *, trust: bool) -> TorchSource:
    """A program that `torch.export.save` wrote; refused without trust, because loading it unpickles.

    Raises:
        SourceError: it is not trusted, not readable, or not a program for inference.
    """
    if not path.is_file():
        raise SourceError(f"no file {str(path)!r}")
    if not trust:
        raise SourceError(
            f"{path} is a program of PyTorch, and loading one can run code from the file",
            hint="--trust loads it all the same; only do so with a file from somebody you trust",
        )
    try:
        with backend.quiet():
            program = backend.torch().export.load(path)
    except Exception as error:
        raise SourceError(
            f"{path} is not a readable program of PyTorch: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    label = sha256_of(path)
    return from_program(program, SourceInfo("torch", path.stem, str(path), label, True), origin=label)


def from_program(program: Any, info: SourceInfo, origin: str | None = None) -> TorchSource:
    """A source of an ExportedProgram; its layers are the modules that its operators remember.

    Raises:
        SourceError: it was exported in training mode, or takes something that is not a tensor.
    """
    torch = backend.torch()
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        arguments = [] if schema is None else [argument.name for argument in schema.arguments]
        for place, argument in enumerate(arguments):
            if argument in ("training", "train") and (
                node.args[place] if place < len(node.args) else node.kwargs.get(argument, False)
            ):
                raise SourceError(
                    f"{info.name!r} was exported in training mode: {node.target} trains",
                    hint="export it again after model.eval()",
                )
    called = _signature(program, info)
    with backend.quiet():
        model = torch.export.unflatten(program)
    return TorchSource(model, info, called, origin)


def _signature(program: Any, info: SourceInfo) -> Signature:
    pytree = backend.torch().utils._pytree
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs, examples = [], []
    names: dict[Any, str] = {}
    for name in program.graph_signature.user_inputs:
        value = placeholders[name].meta["val"] if name in placeholders else name
        if not isinstance(value, backend.torch().Tensor):
            raise SourceError(f"{info.name!r} takes {value!r} among its inputs, which is no tensor")
        sizes: list[Dim] = []
        for axis, size in enumerate(value.shape):
            symbol = None if isinstance(size, int) else size.node.expr
            if symbol is None or not symbol.is_Symbol:
                sizes.append(size if symbol is None else size.node.hint)
                continue
            first = axis == 0 and "batch" not in names.values()
            sizes.append(names.setdefault(symbol, "batch" if first else f"{name}_dim{axis}"))
        inputs.append(TensorSpec(name, tuple(sizes), str(value.dtype).removeprefix("torch.")))
        examples.append(tuple(s if isinstance(s, int) else s.node.hint for s in value.shape))
    positional, keyword = pytree.tree_unflatten(range(len(inputs)), program.call_spec.in_spec)
    return Signature(tuple(inputs), tuple(positional), dict(keyword), tuple(examples))
