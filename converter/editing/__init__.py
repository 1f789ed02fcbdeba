"""Changed models: what the user wants changed, a source of the changed model, and what stayed as it was."""

from converter.editing.changes import Changes
from converter.editing.edit import Edited, edit
from converter.editing.heads import channels_last_of

__all__ = ["Changes", "Edited", "channels_last_of", "edit"]
