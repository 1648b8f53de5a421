"""A table on the terminal, its long side downwards so that it fits."""

import sys

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.formats.text import DASH, Footnotes, conventions, lines, summary


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
    for heading in [row.heading for row in layout.rows] if sideways else [c.full_title for c in columns]:
        screen.add_column(Text(heading), justify="right")
    grid = [_cells(lines(table, row, columns, footnotes)) for row in layout.rows]
    if sideways:
        for column, line in zip(columns, zip(*grid, strict=True), strict=True):
            screen.add_row(Text(column.full_title), *line)
    else:
        for row, cells in zip(layout.rows, grid, strict=True):
            screen.add_row(Text(row.heading), *cells)
    console.print(screen)
    notes = [*(f"[{number}] {note}" for number, note in footnotes), conventions(table), table.notice, verdict]
    if table.complete < len(table.cells):
        notes.append(f"To fill what is missing: {layout.command}")
    for note in filter(None, notes):
        console.print(Text(note))
    console.print()


def _cells(said: list[tuple[str, list[str]]]) -> list[Text]:
    """The lines of a row as one text per column, ours strong and first."""
    said = sorted(said, key=lambda line: line[0] != "ours")
    cells = []
    for texts in zip(*(texts for _, texts in said), strict=True):
        cell = Text(texts[0], style="bold")
        for (label, _), text in zip(said[1:], texts[1:], strict=True):
            if text not in ("", DASH):
                named = f"{label} {text}" if label in ("paper", "reference") else text
                cell.append(f"\n{named}", style="not bold" if label == "replicates" else "not bold dim")
        cells.append(cell)
    return cells
