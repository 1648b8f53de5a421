"""A table as Markdown."""

import re
from collections.abc import Sequence

import pandas as pd

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.formats.text import Footnotes, conventions, lines, says_nothing, summary

SIGNS = str.maketrans({**{sign: f"\\{sign}" for sign in "\\`*_|[]~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown(table: FilledTable, short: bool = False, title: bool = True) -> str:
    """`short`, for the committed results: only the drawn columns, and no line that `says_nothing`; the summary counts
    all cells. `title`: begin with the table's.
    """
    layout, footnotes = table.layout, Footnotes()
    columns = [column for column in layout.columns if column.drawn or not short]
    rows = []
    for row in layout.rows:
        said = lines(table, row, columns, footnotes)
        said = [line for line in said if not (short and says_nothing(table, row, columns, *line))]
        for i, (label, texts) in enumerate(said):
            emphasised = [f"**{text}**" if label == "ours" and text else text for text in map(escape, texts)]
            rows.append([f"**{escape(row.heading)}**" if i == 0 else "", label, *emphasised])
    body = plain_table([escape(layout.corner), "", *(escape(column.full_title) for column in columns)], rows)
    notes = "".join(f"\n[{i}] {escape(note)}\n" for i, note in footnotes)
    heading = f"**{escape(layout.title)}**\n\n" if title else ""
    return (
        f"{heading}{escape(table.description)}\n\n{body}\n\n{escape(summary(table))} {escape(conventions(table))}\n"
        f"{notes}"
    )


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
