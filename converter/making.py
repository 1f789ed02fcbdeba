"""What targets are made of: the finished ONNX file, the framework's own model, or one rebuilt."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import ConverterError, SourceError, TargetError
from converter.finish import plainly, restate
from converter.model import Array, Piece, Plain, Source
from converter.onnxfile import Excerpt
from converter.request import Pieces, Request
from converter.targets import TARGETS, Brief, Run
from converter.targets.keras_calls import called

__all__ = ["Workshop"]

# Frameworks that models are rebuilt in; those of them whose layers have their channels last.
_REBUILT_IN = frozenset(["torch", "keras"])
_CHANNELS_LAST = frozenset(["keras"])


@dataclasses.dataclass
class Workshop:
    """Makes what targets are made of, each once, when the first target asks for it.

    Attributes:
        source: the source.
        made: its pieces.
        request: what was asked for.
        folder: where ONNX files that targets are made of, but that nobody asked for, may lie for a while.
        calibration: inputs of a piece as the framework has them there.
    """

    source: Source
    made: Pieces
    request: Request
    folder: Path
    calibration: Callable[[Piece], Sequence[Mapping[str, Array]]]
    _found: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    _drawn: dict[tuple[str, str], Plain] = dataclasses.field(default_factory=dict)

    def write(self, kind: str, piece: Piece, folder: Path) -> list[Path]:
        """Make an artifact of a piece; returns the files.

        Raises:
            TargetError: it cannot be made.
        """
        target = TARGETS[kind]
        if hasattr(target, "expect"):
            target.expect()
        path = folder / f"{piece.role}{target.SUFFIX}"
        files: list[Path] = target.write(self._ingredient(kind, piece), path, self._brief(kind, piece))
        return files

    def reload(self, kind: str, piece: Piece, folder: Path) -> Run:
        """The artifact that was written, loaded again, as a function between the source's own tensors.

        Raises:
            TargetError: it does not load.
        """
        target = TARGETS[kind]
        path = folder / f"{piece.role}{target.SUFFIX}"
        run: Run = target.reload(path, self._ingredient(kind, piece), self._brief(kind, piece))
        return self._turning(kind, piece, run)

    def _turning(self, kind: str, piece: Piece, run: Run) -> Run:
        """What takes and puts out tensors in a framework's layout, for tensors in the source's."""
        turned = self._turned(kind, piece)
        if not turned:
            return run

        def turn(feeds: Mapping[str, Array]) -> dict[str, Array]:
            back = {name: tuple(np.argsort(perm)) for name, perm in turned.items()}
            return _permuted(run(_permuted(feeds, turned)), back)

        return turn

    def native(self, framework: str, piece: Piece) -> tuple[Any, Run]:
        """A piece as a model of a framework, and it as a function between the source's own tensors.

        Raises:
            TargetError: it cannot be made.
        """
        made, brief = self._ingredient(framework, piece), self._brief(framework, piece)
        if framework == "torch":
            return made.module, self._turning(framework, piece, made.run)
        return made, self._turning(framework, piece, called(made, brief))

    def turned(self, kind: str, piece: Piece) -> dict[str, list[int]]:
        """Inputs and outputs of an artifact whose axes are not in the source's order → the permutation."""
        return {name: list(perm) for name, perm in self._turned(kind, piece).items()}

    def _rebuilt(self, kind: str) -> bool:
        target = TARGETS[kind]
        # What stands around a piece is in its graph, and in no model of the source's.
        own = self.source.info.kind == target.FRAMEWORK and self.made.dressed is None
        return target.FRAMEWORK in _REBUILT_IN and (not own or getattr(target, "REBUILT", False))

    def _turned(self, kind: str, piece: Piece) -> Mapping[str, tuple[int, ...]]:
        return self._plain(kind, piece).turned if self._rebuilt(kind) else {}

    def _brief(self, kind: str, piece: Piece) -> Brief:
        if not self._rebuilt(kind):
            return Brief(piece, lambda: self.calibration(piece), self.request.trust)
        drawn = self._plain(kind, piece)
        own = dataclasses.replace(piece, inputs=drawn.inputs, outputs=drawn.outputs)

        def calibration() -> list[dict[str, Array]]:
            return [_permuted(feeds, drawn.turned) for feeds in self.calibration(piece)]

        return Brief(own, calibration, self.request.trust)

    def _ingredient(self, kind: str, piece: Piece) -> Any:
        framework = TARGETS[kind].FRAMEWORK
        form = f"rebuilt {framework}" if self._rebuilt(kind) else framework
        key = form, piece.role
        if key not in self._found:
            try:
                self._found[key] = self._make(form, kind, piece)
            except TargetError as error:
                self._found[key] = error
            except ConverterError:
                raise
            except Exception as error:
                what = f"the {piece.role} cannot be made in {framework}: {type(error).__name__}: {error}"
                self._found[key] = TargetError(what)
        found = self._found[key]
        if isinstance(found, TargetError):
            raise found
        return found

    def _make(self, form: str, kind: str, piece: Piece) -> Any:
        if form == "onnx":
            path = self.folder / f"{piece.role}.onnx"
            self.folder.mkdir(parents=True, exist_ok=True)
            TARGETS["onnx"].write(piece, path, {})
            return path
        if form == self.source.info.kind and self.made.dressed is None:
            names = [spec.name for spec in piece.model_inputs]
            return self.source.native(names, piece.starts, piece.ends)
        return _rebuilder(TARGETS[kind].FRAMEWORK).rebuild(self._plain(kind, piece))

    def _plain(self, kind: str, piece: Piece) -> Plain:
        """The piece drawn plainly, for the framework of a target."""
        framework = TARGETS[kind].FRAMEWORK
        key = framework, piece.role
        if key not in self._drawn:
            weights = None if self.source.info.kind == "onnx" else set(self.source.weights())
            self._drawn[key] = plainly(
                self._raw(piece),
                weights,
                None if weights is None else weights - self.source.frozen(),
                _rebuilder(framework).table.__contains__,
                channels_last=framework in _CHANNELS_LAST,
                native_layout=self.request.layout == "native",
            )
        return self._drawn[key]

    def _raw(self, piece: Piece) -> Piece:
        """The piece before it was finished."""
        raw = next(raw for raw in self.made.raw if raw.role == piece.role)
        if isinstance(raw.graph, Excerpt):
            raw = dataclasses.replace(raw)
            restate(raw, None)
        return raw


def _permuted(arrays: Mapping[str, Array], perms: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The arrays, those that have a permutation with their axes in its order."""
    return {n: a.transpose(perms[n]) if n in perms else a for n, a in arrays.items()}


def _rebuilder(framework: str) -> Any:
    """The package that rebuilds models in a framework, which is imported without its chatter.

    Raises:
        TargetError: the framework is not installed.
    """
    try:
        getattr(importlib.import_module(f"converter.sources.{framework}.backend"), framework)()
    except SourceError as error:
        raise TargetError(error.message, hint=error.hint) from error
    return importlib.import_module(f"converter.rebuilding.{framework}")
