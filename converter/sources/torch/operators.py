"""Operators of our own, for traces alone: nothing that is written has them."""

from __future__ import annotations

import functools
from typing import Any

from converter.sources.torch import backend

__all__ = ["reshape", "tap"]


@functools.cache
def _library() -> Any:
    return backend.torch().library.Library("converter", "DEF")


@functools.cache
def tap() -> Any:
    """The operator `converter::tap(Tensor x, int number) -> Tensor`: a copy that is known by its number."""
    _library().define("tap(Tensor x, int number) -> Tensor")
    _library().impl("tap", _copy, "CompositeExplicitAutograd")
    return backend.torch().ops.converter.tap.default


def _copy(x: Any, number: int) -> Any:  # noqa: ARG001  # the number is for who reads the graph
    return x.clone()


@functools.cache
def reshape() -> Any:
    """The operator `converter::reshape(Tensor x, SymInt[] shape) -> Tensor`: a copy in another shape.

    `aten.reshape` is traced as a view wherever memory happens to be laid out so that one is possible.
    """
    _library().define("reshape(Tensor x, SymInt[] shape) -> Tensor")
    _library().impl("reshape", _copy_in_shape, "CompositeExplicitAutograd")
    return backend.torch().ops.converter.reshape.default


def _copy_in_shape(x: Any, shape: Any) -> Any:
    return x.clone(memory_format=backend.torch().contiguous_format).view(shape)
