"""A table on the terminal, its long side downwards so that it fits."""

import sys

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable
from multimodal_loss.reporting.formats.text import (
    Footnotes,
    conventions,
    difference_text,
    ours_text,
    paper_text,
    replicates_text,
    summary,
)
from multimodal_loss.reporting.layouts.base import Column

DISTANCE_COLOURS = ("green", "cyan", "yellow", "red")


def default_console() -> Console:
    """As wide as the terminal; in a log wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=110)


def print_table(console: Console, table: FilledTable, verdict: str) -> None:
    """The table with its footnotes, the verdict below it, and how to fill what is missing."""
    footnotes, layout = Footnotes(), table.layout
    columns = [column for column in layout.columns if column.drawn]
    sideways = len(columns) > len(layout.rows)
    screen = RichTable(title=Text(layout.title), caption=Text(summary(table)), show_lines=True, title_justify="left")
    screen.add_column(Text("" if sideways else layout.corner))
    for heading in [table.row_title(row) for row in layout.rows] if sideways else [c.full_title for c in columns]:
        screen.add_column(Text(heading), justify="right")
    grid = [[_cell(table[row, c], c, footnotes) for c in columns] for row in layout.rows]
    if sideways:
        for column, line in zip(columns, zip(*grid, strict=True), strict=True):
            screen.add_row(Text(column.full_title), *line)
    else:
        for row, cells in zip(layout.rows, grid, strict=True):
            screen.add_row(Text(table.row_title(row)), *cells)
    console.print(screen)
    notes = [*(f"[{number}] {note}" for number, note in footnotes), conventions(table), verdict]
    if table.complete < len(table.cells):
        notes.append(f"To fill what is missing: {layout.command}")
    for note in filter(None, notes):
        console.print(Text(note))
    console.print()


def _cell(cell: FilledCell | None, column: Column, footnotes: Footnotes) -> Text:
    if cell is None:
        return Text()
    colour = "" if cell.distance_class is None else DISTANCE_COLOURS[cell.distance_class]
    text = Text(ours_text(cell, column), style="bold" if cell.n else "dim")
    if cell.published:
        label = "paper" if cell.paper else "reference"
        text.append(f"\n{label} {paper_text(cell, column)}", style="not bold dim")
    if cell.difference is not None:
        text.append(f"\n{difference_text(cell, column)}", style=f"not bold {colour}")
    note = footnotes.mark(cell.note)
    text.append(f"\n{replicates_text(cell)}{' ' if note else ''}{note}", style="not bold")
    return text
