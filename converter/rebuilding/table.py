"""Rules for operators, found by (domain, operator, version)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import onnx

from converter.rebuilding.graph import Node, Unsupported

__all__ = ["Key", "Table"]

# (domain, operator, since-version)
Key = tuple[str, str, int]
Rule = TypeVar("Rule", bound=Callable[..., object])


class Table(Generic[Rule]):
    """One rule for each version of an operator.

    A version is the opset that a definition of the operator came with. A version that has no rule is
    refused, never read as if it were another: ONNX changes what operators mean.
    """

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self._rules: dict[Key, Rule] = {}

    def __call__(self, ops: str, *versions: int, domain: str = "") -> Callable[[Rule], Rule]:
        """Register a rule for these versions of one operator, or of several, parted by spaces.

        Each version is named: what a later one means is not known yet. Operators of other domains than
        ONNX's own have version 1.

        Raises:
            ValueError: there is a rule for one of them, or no such version.
        """

        def register(rule: Rule) -> Rule:
            for op in ops.split():
                known = _versions(domain, op)
                for version in (1,) if domain else versions:
                    if version not in known:
                        raise ValueError(f"{op} has no version {version}, only {known}")
                    if (domain, op, version) in self._rules:
                        raise ValueError(f"{op} version {version} has a rule already")
                    self._rules[domain, op, version] = rule
            return rule

        return register

    def rule(self, node: Node) -> Rule:
        """The rule for a node.

        Raises:
            Unsupported: there is none.
        """
        found = self._rules.get((node.domain, node.op, node.since))
        if found is None:
            others = [
                version for domain, op, version in self._rules if (domain, op) == (node.domain, node.op)
            ]
            where = f" of {node.domain}" if node.domain else ""
            raise Unsupported(
                node,
                f"no rule for {node.op}{where} version {node.since} in {self.framework}"
                + (f", only for {', '.join(map(str, sorted(others)))}" if others else ""),
            )
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._rules

    def __iter__(self) -> Iterator[Key]:
        return iter(sorted(self._rules))


def _versions(domain: str, op: str) -> list[int]:
    """All versions of an operator; of operators that are not ONNX's, version 1."""
    found = {
        schema.since_version
        for schema in _history().get((domain, op), ())
        if not schema.deprecated or op == "Upsample"
    }
    return sorted(found) or ([1] if domain else [])


_HISTORY: dict[tuple[str, str], list[onnx.defs.OpSchema]] = {}


def _history() -> dict[tuple[str, str], list[onnx.defs.OpSchema]]:
    if not _HISTORY:
        for schema in onnx.defs.get_all_schemas_with_history():
            _HISTORY.setdefault((schema.domain, schema.name), []).append(schema)
    return _HISTORY
