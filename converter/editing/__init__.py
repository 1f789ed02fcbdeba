"""Changed models: what the user wants changed, a source of the changed model, and what stayed as it was."""

from converter.editing.changes import Changes
from converter.editing.edit import Edited, edit

__all__ = ["Changes", "Edited", "edit"]
