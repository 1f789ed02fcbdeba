"""A Keras model as a source: the verbs of `converter.model.Source`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.edits import Edits
from converter.errors import SourceError
from converter.model import Array, Boundary, Layer, LayeredModel, Outline, SourceInfo, TensorSpec
from converter.sources.digest import sha256_of, user_code
from converter.sources.keras import backend
from converter.sources.keras.applications import build_application, value_range
from converter.sources.keras.edit import edited, named_layers
from converter.sources.keras.files import load_weights, open_file
from converter.sources.keras.initial import keep_signal, seeded
from converter.sources.keras.native import part
from converter.sources.keras.outline import outline_of
from converter.sources.keras.recorder import LayerCall, Reached, calls_until, recording
from converter.sources.keras.signature import Signature, flatten_named, signature
from converter.sources.keras.trace import Trace, names_of_variables, trace
from converter.sources.keras.translate import lazy_weight, translate
from converter.sources.keras.wide import in_float64, wide_floats

__all__ = ["KerasSource", "open_application", "open_keras_file", "open_live"]


class KerasSource:
    """A built Keras model, seen through the verbs that every source has."""

    packages: tuple[str, ...] = ("tensorflow", "tensorflow-cpu", "keras", "tf2onnx")
    beside: tuple[Path, ...] = ()

    def __init__(
        self,
        model: Any,
        info: SourceInfo,
        value_range: tuple[float, float] | None = None,
        origin: str | None = None,
    ) -> None:
        self.info = info
        self.origin = origin
        self.model = model
        self._range = value_range
        self.added: frozenset[str] = frozenset()
        self._until: frozenset[str] = frozenset()
        self._traced: Trace | None = None
        self._double: Any = None

    @functools.cached_property
    def _signature(self) -> Signature:
        found = signature(self.model)
        ranged = [dataclasses.replace(spec, value_range=self._range) for spec in found.inputs]
        return dataclasses.replace(found, inputs=tuple(ranged))

    @property
    def _trace(self) -> Trace:
        if self._traced is None:
            self._traced = trace(self.model, self._signature, self._until)
        return self._traced

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[Boundary, ...]:
        return self._trace.outputs

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._trace.layers

    def outline(self, most: int, near: Sequence[Boundary] = ()) -> Outline:
        del near
        return outline_of(self.model, most)

    def expect(self, names: Sequence[str], *, trunk: bool = True) -> None:
        wanted = frozenset(names) if trunk and calls_until(self.model, names) else frozenset()
        partial = self._traced is not None and bool(self._until)
        if partial and wanted and wanted <= {layer.name for layer in self.layers}:
            return  # what was traced for another cut reaches far enough
        if self._traced is None or partial:
            self._traced, self._until = None, wanted

    def export(self, sinks: Sequence[Boundary], opset: int) -> LayeredModel:
        return translate(self._trace, [boundary.value for boundary in sinks], opset)

    def weights(self) -> dict[str, ir.TensorProtocol]:
        names = names_of_variables(self.model, self._signature)
        return {names[id(v)]: lazy_weight(names[id(v)], v) for v in self.model.variables if id(v) in names}

    def trainable(self) -> dict[str, str]:
        names = names_of_variables(self.model, self._signature)
        return {
            names[id(variable)]: path
            for path, layer in named_layers(self.model)
            for variable in layer._trainable_variables
            if id(variable) in names
        }

    def frozen(self) -> frozenset[str]:
        names = names_of_variables(self.model, self._signature)
        return frozenset(names[id(v)] for v in self.model.non_trainable_variables if id(v) in names)

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """Run Keras eagerly, layer by layer; independent of the trace that the graph comes from."""
        return self._answers(self.model, feeds, wanted)

    def run64(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """The model built anew from its configuration under the dtype policy float64, with its weights."""
        if self._double is None:
            self._double = in_float64(self.model)
        with wide_floats():
            return self._answers(self._double, feeds, wanted, " in float64")

    def _answers(
        self, model: Any, feeds: Mapping[str, Array], wanted: Sequence[Boundary], how: str = ""
    ) -> dict[str, Array]:
        tf = backend.tensorflow()
        places = {b.place or b.name: b.value for b in wanted}
        found: dict[str, Array] = {}

        def observe(call: LayerCall, proceed: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            outputs = proceed(*args, **kwargs)
            for key, value in flatten_named(outputs):
                name = places.get((call.path, call.index, key))
                if name is not None:
                    found[name] = np.asarray(value)
            if len(found) == len(places):
                raise Reached
            return outputs

        arrays = (feeds[spec.name] for spec in self.inputs)
        values = [tf.constant(x.astype("float64") if how and x.dtype.kind == "f" else x) for x in arrays]
        try:
            with recording(model, observe):
                outputs = self._signature.call(model, values)
        except Reached:
            return found
        except Exception as error:
            raise SourceError(
                f"Keras cannot run {self.info.name!r} on these samples{how}: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            ) from error
        for name, value in self._signature.name_outputs(model, outputs):
            if name in places:
                found[places[name]] = np.asarray(value)
        missing = [b.name for b in wanted if b.value not in found]
        if missing:
            raise SourceError(f"Keras did not reach {', '.join(missing)} when it ran the model")
        return found

    def edited(self, edits: Edits, info: SourceInfo) -> KerasSource:
        names = names_of_variables(self.model, self._signature)
        model, added = edited(self.model, self._signature, edits, names)
        made = KerasSource(model, info, self._range)
        own = names_of_variables(model, made._signature)
        made.added = frozenset(own[id(variable)] for variable in added if id(variable) in own)
        return made

    def native(self, inputs: Sequence[str], starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Any:
        return part(
            self.model,
            self._signature,
            inputs,
            [(b.place, b.spec) for b in starts if b.place],
            [b.place or b.name for b in ends],
        )


def open_application(name: str, *, weights: str, seed: int) -> KerasSource:
    """A model of `keras.applications`.

    Args:
        name: its name in any case.
        weights: `pretrained`, `auto` (pretrained, else random), `random`, or a weights file.
        seed: seed of initial weights.

    Raises:
        SourceError: no such model, or weights that cannot be had or do not fit.
    """
    lower = name.casefold()
    label, model = "pretrained", None
    if weights in ("pretrained", "auto"):
        try:
            model = build_application(name, pretrained=True, seed=seed)
        except SourceError as error:
            if weights == "pretrained" or "cannot be downloaded" not in error.message:
                raise
    if model is None:
        label = f"random(seed={seed})"
        model = build_application(name, pretrained=False, seed=seed)
        if weights not in ("auto", "random"):
            load_weights(model, Path(weights))
            label = sha256_of(Path(weights))
    info = SourceInfo("keras", lower, f"keras:{lower}", label, not label.startswith("random"))
    return KerasSource(model, info, value_range(lower), origin=info.locator)


def open_keras_file(
    path: Path, *, weights: str, seed: int, trust: bool, custom_objects: Path | None
) -> KerasSource:
    """A model from a `.keras` or `.h5` file; its own weights unless `weights` says otherwise.

    Raises:
        SourceError: the file cannot be read or trusted, or the weights do not fit.
    """
    model = open_file(path, trust=trust, custom_objects=custom_objects)
    label = sha256_of(path)
    if weights == "random":
        with seeded(seed):
            model = backend.keras().models.clone_model(model)
        keep_signal(model, seed)
        label = f"random(seed={seed})"
    elif weights not in ("pretrained", "auto"):
        load_weights(model, Path(weights))
        label = sha256_of(Path(weights))
    info = SourceInfo("keras", path.stem, str(path), label, not label.startswith("random"))
    code = "" if custom_objects is None else user_code()
    return KerasSource(model, info, origin=f"{sha256_of(path)} {code}")


def open_live(model: Any) -> KerasSource:
    """A live `keras.Model`, with whatever weights it has.

    Raises:
        SourceError: it is no Keras model, or was never built.
    """
    if not isinstance(model, backend.keras().Model):
        raise SourceError(f"expected a keras.Model, got {type(model).__name__}")
    signature(model)
    return KerasSource(model, SourceInfo("keras", model.name, f"live:{model.name}", "live", True))
