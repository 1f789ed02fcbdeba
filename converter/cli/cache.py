"""`converter cache`: exports that are kept."""

from __future__ import annotations

from typing import Annotated

import typer

from converter.cli.console import Screen
from converter.cli.program import app

__all__ = ["cache"]


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
) -> None:
    """Show the exports that are kept for later runs, or remove them.

    CONVERTER_CACHE_DIR says where they are.

    CONVERTER_CACHE_MB says how large they may grow together; what was used longest ago goes first.

    No weights are kept.
    """
    from converter.report import cache_table
    from converter.sources.cache import Store

    store = Store()
    if clear:
        print(f"removed {store.clear()} exports from {store.folder}")
        return
    cache_table(Screen(), store.folder, store.limit, [(e.path, e.header) for e in store.entries()])
