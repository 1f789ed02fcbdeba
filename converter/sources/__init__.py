"""From what a user names to a `converter.model.Source`; frameworks are imported on use."""

from converter.sources.resolve import resolve

__all__ = ["resolve"]
