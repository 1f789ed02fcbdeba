"""ONNX's definitions of operators, as the installed package has them."""

from __future__ import annotations

import onnx

__all__ = ["schema_of", "since"]


def schema_of(domain: str, op: str, opset: int) -> onnx.defs.OpSchema | None:
    """The definition that holds in an opset; None of operators that are not ONNX's."""
    try:
        return onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None


def since(domain: str, op: str, opset: int) -> int:
    """The version of an operator: the opset that its definition came with; 1 where there is none."""
    schema = schema_of(domain, op, opset)
    return 1 if schema is None else int(schema.since_version)
