"""Watching a PyTorch model call its modules."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from converter.sources.torch import backend

__all__ = ["ModuleCall", "Reached", "called", "module_stack_kept", "recording"]


@dataclasses.dataclass(frozen=True)
class ModuleCall:
    """One call of one submodule.

    Attributes:
        path: the module's path, the first one where it is registered under several.
        index: number of the call among those of this module.
        module: the module.
    """

    path: str
    index: int
    module: Any


class Reached(BaseException):
    """Thrown through a model's `forward` when what was waited for has been seen."""


@contextlib.contextmanager
def recording(model: Any, observe: Callable[[ModuleCall, Any], Any]) -> Iterator[None]:
    """Show each submodule's output to `observe` as soon as the call returns.

    Args:
        model: its own call is not shown, only those of its submodules.
        observe: gets the call and its output; what it returns, unless None, takes the output's place.
    """
    count: Counter[str] = Counter()
    compiling = backend.torch().compiler.is_dynamo_compiling

    def hook_for(path: str) -> Callable[..., Any]:
        def hook(module: Any, _arguments: Any, output: Any) -> Any:
            if compiling():
                return None  # inside a branch of torch.cond, which nothing outside can see into
            call = ModuleCall(path, count[path], module)
            count[path] += 1
            return observe(call, output)

        return hook

    handles = []
    try:
        for path, module in model.named_modules():
            if path:  # an unflattened program has a module `relu@1` for the second call of `relu`
                handles.append(module.register_forward_hook(hook_for(re.sub(r"@\d+", "", path))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def called(model: Any, run: Callable[[], Any]) -> Counter[str]:
    """How often each submodule is called in one run of the model, which may fail on the way."""
    count: Counter[str] = Counter()

    def observe(call: ModuleCall, _output: Any) -> None:
        count[call.path] += 1

    # What fails (detection without its compiled operators) may come after all that is asked for;
    # whatever else is wrong with the model, tracing will meet it again and can say where.
    with recording(model, observe), contextlib.suppress(Exception):
        run()
    return count


@contextlib.contextmanager
def module_stack_kept() -> Iterator[None]:
    """Put the tracer's stack of modules back after a stop, which unwinds past its own book-keeping."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    stack = getattr(getattr(get_proxy_mode(), "tracer", None), "module_stack", {})
    depth = len(stack)
    yield
    while len(stack) > depth:
        stack.popitem()
