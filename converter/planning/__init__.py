"""Where a model may be cut, and what each cut costs on either side."""

from converter.planning.plan import CutCost, Plan, Side, plan
from converter.planning.rank import Link, by_latency, fitting

__all__ = ["CutCost", "Link", "Plan", "Side", "by_latency", "fitting", "plan"]
