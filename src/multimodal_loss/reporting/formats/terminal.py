"""A table on the terminal, its long side downwards so that it fits."""

import sys

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.formats.text import REFERENCES, Place, grid, summary


def default_console() -> Console:
    """As wide as the terminal; in a log wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=110)


def print_table(console: Console, table: FilledTable, verdict: str) -> None:
    """The table with its footnotes, the verdict below it, and how to fill what is missing."""
    found, layout = grid(table, short=True), table.layout
    sideways = len(found.columns) > len(found.lines)
    screen = RichTable(title=Text(layout.title), caption=Text(summary(table)), show_lines=True, title_justify="left")
    rows = [row.heading for row, *_ in found.lines]
    columns = [column.heading for column in found.columns] + ["Mean rank"] * bool(found.ranked)
    texts = [[*map(_cell, places), *[Text(rank)] * bool(found.ranked)] for _, places, rank in found.lines]
    if sideways:
        rows, columns, texts = columns, rows, [list(line) for line in zip(*texts, strict=True)]
    screen.add_column(Text("" if sideways else found.corner), overflow="fold", min_width=18)
    for heading in columns:
        screen.add_column(Text(heading), justify="right")
    for heading, line in zip(rows, texts, strict=True):
        screen.add_row(Text(heading), *line)
    console.print(screen)
    notes = [*found.notes, table.notice, verdict]
    if not all(cell.is_final for cell in table.cells.values()):
        notes.append(f"To fill what is missing: {layout.command}")
    for note in filter(None, notes):
        console.print(Text(note))
    console.print()


def _cell(place: Place) -> Text:
    """Ours strong and first, what else there is below it."""
    cell = Text(place.said.get("ours", ""), style="bold")
    for label, text in place.said.items():
        if label != "ours":
            named = f"{label} {text}" if label in REFERENCES else text
            cell.append(f"\n{named}", style="not bold" if label == "state" else "not bold dim")
    return cell
