"""Which cells each table has, before anything has been run: one file for each family of tables.

To add a table: `conf/experiment/<name>.yaml`, whose sweep trains its runs, and `<name>.py` here with a function
`layouts() -> list[Layout]`. Modules are found by that function; nothing else names them.
"""

import importlib
import pkgutil
from functools import cache

from multimodal_loss.reporting.layouts.base import Layout


@cache
def all_layouts() -> dict[str, Layout]:
    """Every table by its name, in the order of the page: full ones before quick ones, numbered tables first.

    Raises ValueError where two tables share a name.
    """
    found: list[Layout] = []
    for module in pkgutil.iter_modules(__path__):
        make = getattr(importlib.import_module(f"{__name__}.{module.name}"), "layouts", None)
        found += make() if make else []
    names = [layout.name for layout in found]
    if len(set(names)) < len(names):
        raise ValueError(f"tables share a name: {', '.join(sorted(name for name in names if names.count(name) > 1))}")
    found.sort(key=lambda layout: (layout.profile != "full", not layout.name.startswith("table"), layout.name))
    return {layout.name: layout for layout in found}
