"""A table as Markdown."""

import re
from collections.abc import Sequence

import pandas as pd

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.formats.text import REFERENCES, Place, grid, summary

SIGNS = str.maketrans({**{sign: f"\\{sign}" for sign in "\\`*_|[]~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown(table: FilledTable, short: bool = False, title: bool = True) -> str:
    """`short`, for the committed results: only the drawn columns; the summary counts all cells. `title`: begin with the
    table's.
    """
    found = grid(table, short)
    rows = []
    for row, places, rank in found.lines:
        heading = escape(row.heading)
        rows.append(
            [f"**{heading}**" if found.is_focus(row) else heading, *map(_cell, places), *[rank] * bool(found.ranked)]
        )
    header = [escape(text) for text in (found.corner, *(column.heading for column in found.columns))]
    body = plain_table([*header, *["Mean rank"] * bool(found.ranked)], rows, left=1)
    heading = f"**{escape(table.layout.title)}**\n\n" if title else ""
    below = "\n\n".join(map(escape, [summary(table), *found.notes]))
    return f"{heading}{escape(table.description)}\n\n{body}\n\n{below}\n"


def _cell(place: Place) -> str:
    """Ours first, strong where it is the best; what else there is below it."""
    said = {label: escape(f"{label} {text}" if label in REFERENCES else text) for label, text in place.said.items()}
    if place.mark == "best":
        said["ours"] = f"**{said['ours']}**"
    return "<br>".join(said.values())


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Texts that are Markdown already; all but the first `left` columns to the right."""
    frame = pd.DataFrame([list(row) for row in rows], columns=list(header))
    alignment = ["left"] * left + ["right"] * (len(header) - left)
    text = str(frame.to_markdown(index=False, disable_numparse=True, colalign=alignment))
    # Without padding: committed tables stay small, and a changed cell changes one line.
    titles, rule, *body = re.sub(" {2,}", " ", text).splitlines()
    return "\n".join([titles, re.sub("-+", "---", rule), *body])


def escape(text: str) -> str:
    """Plain text for Markdown, on one line."""
    return " ".join(text.split()).translate(SIGNS)
