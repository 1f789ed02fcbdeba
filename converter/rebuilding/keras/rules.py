"""The table of rules: from a node of a plain graph to layers and operations of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.rebuilding.graph import Node
from converter.rebuilding.keras.builder import Builder
from converter.rebuilding.table import Table

__all__ = ["Rule", "rule", "table"]

# What a rule makes of a node: a value for each of its outputs, alone where it has one.
Rule = Callable[[Builder, Node], Any]

table: Table[Rule] = Table("Keras")
rule = table
