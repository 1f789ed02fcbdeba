"""Which blocks of a model can be left out, what each does to its input, and what the model is without it."""

from converter.ranking.candidates import Candidate, candidates
from converter.ranking.rank import Influence, Ranking, rank

__all__ = ["Candidate", "Influence", "Ranking", "candidates", "rank"]
