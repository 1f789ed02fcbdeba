"""Graph in, graph out: where a model may be cut, and cutting it. Knows no framework."""

from converter.surgery.cut import cut
from converter.surgery.dominators import legal_cuts
from converter.surgery.frontier import Frontier, frontier
from converter.surgery.index import edges_of
from converter.surgery.select import expanded, select, select_layers

__all__ = ["Frontier", "cut", "edges_of", "expanded", "frontier", "legal_cuts", "select", "select_layers"]
