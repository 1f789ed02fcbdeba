"""Functions that are copied into the text of a model that needs them; their sources are data here."""
