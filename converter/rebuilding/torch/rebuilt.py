"""A rebuilt model: its source, the module that the source makes, and the program traced of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from converter.errors import TargetError, ValidationError
from converter.model import Array, Plain
from converter.rebuilding.torch.module import source
from converter.rebuilding.torch.writer import Writer

__all__ = ["Rebuilt", "rebuild"]


def rebuild(plain: Plain) -> Rebuilt:
    """The plain graph as a PyTorch module.

    Raises:
        Unsupported: an operator has no rule, or none that fits the node.
    """
    writer = Writer(plain)
    text = source(plain, writer)
    counters = {
        f"{key.removesuffix('.running_var')}.num_batches_tracked"
        for key in writer.state
        if key.endswith(".running_var")
    }
    return Rebuilt(plain, text, writer.state, frozenset(writer.constants | counters))


@dataclasses.dataclass(frozen=True, eq=False)
class Rebuilt:
    """A PyTorch model made of a plain graph.

    Attributes:
        plain: the graph.
        text: the source of the module's class; it needs torch and safetensors alone.
        arrays: the numbers of its state, by key.
        constants: the keys of the module's `state_dict` that are no weights of the source.
    """

    plain: Plain
    text: str
    arrays: Mapping[str, Array]
    constants: frozenset[str]

    @functools.cached_property
    def module(self) -> Any:
        """The module with its weights, in evaluation mode."""
        module = self._made()
        module.load_state_dict({key: _tensor(array) for key, array in self.arrays.items()})
        return module

    @functools.cached_property
    def state(self) -> dict[str, Any]:
        """What the module's `state_dict` has, as contiguous copies in main memory."""
        return {k: v.detach().cpu().clone().contiguous() for k, v in self.module.state_dict().items()}

    @property
    def parameters(self) -> int:
        """Number of scalar weights, those that are trained and those that are not."""
        return sum(array.size for key, array in self.arrays.items() if key not in self.constants)

    @functools.cached_property
    def program(self) -> Any:
        """The module as an ExportedProgram, in which sizes that are symbolic are dynamic.

        Raises:
            TargetError: PyTorch cannot trace it.
        """
        import torch

        sizes: dict[str, int] = {}
        examples, dynamic = [], []
        for spec in self.plain.inputs:
            for dim in spec.shape:
                if isinstance(dim, str) and dim not in sizes:
                    sizes[dim] = 2 if not sizes else 64 if len(spec.shape) > 3 else 5 + 2 * len(sizes)
            shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
            examples.append(torch.zeros(shape, dtype=getattr(torch, spec.dtype)))
            dynamic.append(
                {axis: torch.export.Dim.DYNAMIC for axis, d in enumerate(spec.shape) if isinstance(d, str)}
            )
        try:
            with _quiet(), torch.no_grad():
                return torch.export.export(self.module, tuple(examples), dynamic_shapes=tuple(dynamic))
        except Exception as error:
            first = " ".join([type(error).__name__ + ":", *str(error).strip().splitlines()[:1]])
            raise TargetError(f"PyTorch cannot trace the rebuilt {self.plain.role}: {first}") from error

    def text_for(self, weights: str) -> str:
        """The text for weights that lie in a file of this name."""
        return self.text.replace(f"{self.plain.role}.safetensors", weights)

    def called(self, module: Any) -> Callable[[Mapping[str, Array]], list[Array]]:
        """A module made of this one as a function of its inputs by name.

        Raises:
            ValidationError: when called: the module refuses what this one takes.
        """
        return lambda feeds: self._called(module, feeds)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name.

        Raises:
            ValidationError: the module does not run on these inputs.
        """
        return self._named(self._called(self.module, feeds))

    def restored(self, state: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """The class made anew from the text, with these weights and no others, as a function.

        Raises:
            TargetError: a weight is missing, or one is not known.
        """
        import torch

        module = self._made()
        with torch.no_grad():
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        try:
            module.load_state_dict(dict(state))
        except RuntimeError as error:
            raise TargetError(
                f"these are not the weights of the rebuilt {self.plain.role}: {error}"
            ) from error
        return lambda feeds: self._named(self._called(module, feeds))

    def _made(self) -> Any:
        """The class of the text, called once; the state of the random generator is left as it was."""
        import torch

        names: dict[str, Any] = {
            "__name__": f"rebuilt_{self.plain.role}",
            "__file__": f"{self.plain.role}.py",
        }
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            exec(compile(self.text, f"<{self.plain.role}.py>", "exec"), names)
            return names[self.plain.role.capitalize()]().eval()

    def _named(self, arrays: Sequence[Array]) -> dict[str, Array]:
        return {spec.name: array for spec, array in zip(self.plain.outputs, arrays, strict=True)}

    def _called(self, module: Any, feeds: Mapping[str, Array]) -> list[Array]:
        import torch

        given = [_tensor(np.asarray(feeds[spec.name])) for spec in self.plain.inputs]
        try:
            with torch.no_grad():
                results = module(*given)
        except Exception as error:
            raise ValidationError(
                f"the rebuilt {self.plain.role} does not run: {type(error).__name__}: {error}"
            ) from error
        return [_array(r) for r in (results if isinstance(results, tuple) else (results,))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tensor(array: Array) -> Any:
    """A NumPy array as a tensor of the same dtype, apart from the array."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def _array(tensor: Any) -> Array:
    """A tensor's values as a NumPy array, apart from the tensor."""
    import torch

    plain = tensor.detach().to("cpu", copy=True).contiguous()
    if plain.dtype is torch.bfloat16:
        return np.asarray(plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(plain.numpy())
