"""A Keras model in float64: the same configuration and weights under another dtype policy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from converter.errors import SourceError
from converter.sources.keras import backend
from converter.sources.keras.recorder import operations

__all__ = ["in_float64", "wide_floats"]

# Names of dtypes and of policies that are widened, those of mixed precision included.
_NARROW = frozenset("float16 bfloat16 float32 mixed_float16 mixed_bfloat16".split())
# The keys that a configuration has them under, as words or as whole policies.
_KEYS = frozenset(["dtype", "dtype_policy"])


@contextlib.contextmanager
def wide_floats() -> Iterator[None]:
    """Make float64 what Keras takes where no dtype is named, for the length of a block."""
    config = backend.keras().config
    before = config.floatx(), config.dtype_policy()
    try:
        config.set_floatx("float64")
        config.set_dtype_policy("float64")
        yield
    finally:
        config.set_floatx(before[0])
        config.set_dtype_policy(before[1])


def in_float64(model: Any) -> Any:
    """A copy of a built model that computes in float64; the model stays as it is.

    Raises:
        SourceError: its configuration does not say how to build it, or builds another model.
    """
    saving = backend.keras().saving
    try:
        with wide_floats():
            # The model runs its author's code already: nothing else is in its own configuration.
            config = _widened(saving.serialize_keras_object(model))
            own = {type(layer).__name__: type(layer) for layer in operations(model)}
            own[type(model).__name__] = type(model)
            copy = saving.deserialize_keras_object(config, custom_objects=own, safe_mode=False)
            if not copy.built and hasattr(model, "_build_shapes_dict"):
                copy.build_from_config(model.get_build_config())
            pairs = list(zip(copy.variables, model.variables, strict=True))
            for new, old in pairs:
                if tuple(new.shape) != tuple(old.shape):
                    raise ValueError(f"{new.path} has shape {tuple(new.shape)}, expected {tuple(old.shape)}")
                new.assign(backend.tensorflow().cast(old.value, new.dtype))
    except Exception as error:
        raise SourceError(
            f"{model.name!r} cannot be built anew in float64: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="its get_config has to describe it, as for saving it as .keras; leave --noise-floor out",
        ) from error
    return copy


def _widened(config: Any, *, inside: bool = False) -> Any:
    """A configuration with float64 in the place of narrower floating-point dtypes and policies."""
    if isinstance(config, dict):
        return {key: _widened(value, inside=inside or key in _KEYS) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_widened(each, inside=inside) for each in config)
    return "float64" if inside and isinstance(config, str) and config in _NARROW else config
