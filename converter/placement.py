"""Which execution provider of ONNX Runtime each node of a graph was given to, and why not the asked-for one.

That a session *has* a provider says little: nodes that it has no kernel for run on the CPU, all of them
if need be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Assigned", "Group", "Placement"]

# Operators that hold most of a network's work. One of them at least has to run where the network was to run.
WEIGHTY = frozenset(
    "Conv ConvTranspose FusedConv NhwcFusedConv ConvInteger QLinearConv DeformConv MatMul FusedMatMul Gemm "
    "FusedGemm MatMulInteger QLinearMatMul MatMulIntegerToFloat DynamicQuantizeMatMul MatMulNBits QGemm "
    "Einsum LSTM GRU RNN Attention MultiHeadAttention GroupQueryAttention QAttention".split()
)


@dataclasses.dataclass(frozen=True, slots=True)
class Assigned:
    """A node after ONNX Runtime's first optimisations, before any that suits a provider.

    Attributes:
        provider: the execution provider that runs it.
        operator: its operator; outside of ONNX's own domain as `domain::operator`.
        name: its name; empty where it has none.
    """

    provider: str
    operator: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one operator that another provider than the asked-for one runs, for one reason.

    Attributes:
        operator: as of `Assigned`.
        provider: who runs them.
        reason: why, in words.
        count: how many they are.
        nodes: the names of those that have one.
    """

    operator: str
    provider: str
    reason: str
    count: int
    nodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the nodes of one graph run.

    Attributes:
        provider: the execution provider that was asked for.
        nodes: every node, those inside of If, Loop and Scan, too.
        reasons: (operator, name) of a node that another provider runs → why.
    """

    provider: str
    nodes: Sequence[Assigned]
    reasons: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Provider → number of nodes, the asked-for one first."""
        found = {self.provider: 0}
        for node in self.nodes:
            found[node.provider] = found.get(node.provider, 0) + 1
        return found

    @property
    def elsewhere(self) -> tuple[Assigned, ...]:
        """The nodes that another provider runs."""
        return tuple(node for node in self.nodes if node.provider != self.provider)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The same by operator, provider and reason; the largest group first."""
        found: dict[tuple[str, str, str], list[str]] = {}
        for node in self.elsewhere:
            reason = self.reasons.get((node.operator, node.name), "the reason is not known")
            found.setdefault((node.operator, node.provider, reason), []).append(node.name)
        made = [Group(*key, len(names), tuple(filter(None, names))) for key, names in found.items()]
        return tuple(sorted(made, key=lambda group: (-group.count, group.operator, group.reason)))

    @property
    def problem(self) -> str | None:
        """Why this is no run on the asked-for provider: it has no node, or none of those that weigh."""
        counts = self.counts
        if not self.nodes:
            return None  # the graph hands on what it is given
        if not counts[self.provider]:
            return f"none of {len(self.nodes)} nodes runs on {self.provider}"
        heavy = [node for node in self.nodes if node.operator.rpartition("::")[2] in WEIGHTY]
        if heavy and all(node.provider != self.provider for node in heavy):
            kinds = ", ".join(sorted({node.operator for node in heavy}))
            return f"none of {len(heavy)} nodes of weight ({kinds}) runs on {self.provider}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "provider": self.provider,
            "nodes": self.counts,
            "elsewhere": [dataclasses.asdict(g) | {"nodes": list(g.nodes)} for g in self.groups],
        }
