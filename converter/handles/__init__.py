"""The objects of the Python interface: a loaded model, a cut of it, what a receiver asks of an artifact."""

from converter.handles.cut import Cut
from converter.handles.model import Model, load
from converter.handles.receiver import verify

__all__ = ["Cut", "Model", "load", "verify"]
