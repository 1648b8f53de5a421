"""Cells as text, the same in every format.

Conventions, printed under every table: +- is the sample standard deviation (ddof = 1) over replicates.
"""

from collections.abc import Callable, Iterator, Sequence

from multimodal_loss.reporting.analysis.fill import DISTANCE_CLASSES, FilledCell, FilledTable
from multimodal_loss.reporting.layouts.base import Column, Row

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DASH = "\N{EN DASH}"
LONGEST_NOTE_IN_CELL = 28  # longer notes stand below the table

CONVENTION = f"{PLUS_MINUS} is the sample standard deviation (ddof = 1) over replicates."
PAPER_CONVENTIONS = {
    "paper": "Difference is ours minus the paper's; in brackets |difference| / sqrt(sd_ours\N{SUPERSCRIPT TWO} + "
    "sd_paper\N{SUPERSCRIPT TWO}), in combined standard deviations (sd).",
    "reference": "Reference is the paper's number on its own, other data: no target, and no difference from it is "
    "formed.",
}


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    if value is None:
        return DASH
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def mean_and_sd(mean: float | None, sd: float | None, decimals: int, signed: bool = False) -> str:
    if mean is None:
        return DASH
    spread = f" {PLUS_MINUS} {number(sd, decimals)}" if sd is not None else ""
    return number(mean, decimals, signed) + spread


def paper_text(cell: FilledCell, column: Column, footnotes: "Footnotes") -> str:
    if cell.paper is None:
        return DASH
    number = mean_and_sd(cell.paper.mean, cell.paper.sd, column.decimals, column.signed)
    return joined(number, footnotes.mark(cell.paper.note))


def ours_text(cell: FilledCell, column: Column) -> str:
    return mean_and_sd(cell.mean, cell.sd, column.decimals, column.signed) if cell.n else cell.state


def values_text(cell: FilledCell, column: Column) -> str:
    return ", ".join(number(value, column.decimals, column.signed) for value in cell.values.values())


def difference_text(cell: FilledCell, column: Column) -> str:
    if cell.difference is None:
        return DASH
    distance = "" if cell.distance is None else f" ({cell.distance:.1f} sd)"
    return number(cell.difference, column.decimals, signed=True) + distance


def replicates_text(cell: FilledCell) -> str:
    state = f", {cell.state}" if cell.n and cell.state != "complete" else ""
    return f"{cell.n} of {len(cell.expected) or '?'}{state}"


class Footnotes:
    """Numbers the notes that are too long for their cell; equal notes share a number."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def mark(self, note: str) -> str:
        """What to print in the cell: nothing, the short note itself, or a reference such as [1]."""
        if not note:
            return ""
        if len(note) <= LONGEST_NOTE_IN_CELL:
            return f"({note})"
        if note not in self.notes:
            self.notes.append(note)
        return f"[{self.notes.index(note) + 1}]"

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(enumerate(self.notes, start=1))


def lines(table: FilledTable, row: Row, columns: Sequence[Column], footnotes: Footnotes) -> list[tuple[str, list[str]]]:
    """A row as the lines of text that it is printed on: paper (or reference), ours, difference, replicates."""
    places = [(table[row, column], column) for column in columns]

    def line(text: Callable[[FilledCell, Column], str]) -> list[str]:
        return [text(cell, column) if cell else "" for cell, column in places]

    label = table.paper_label
    texts: dict[str, Callable[[FilledCell, Column], str]] = {
        label: lambda cell, column: paper_text(cell, column, footnotes),
        "ours": ours_text,
        "difference": difference_text,
        "replicates": lambda cell, _: joined(replicates_text(cell), footnotes.mark(cell.note)),
    }
    left_out = {"paper": [], "reference": ["difference"], "": ["", "difference"]}[label]
    return [(label, line(text)) for label, text in texts.items() if label not in left_out]


def says_nothing(table: FilledTable, row: Row, columns: Sequence[Column], label: str, texts: Sequence[str]) -> bool:
    """Whether a line of `lines` may be left out: replicates if none is missing, reference if the paper has none."""
    if label == "replicates":
        cells = [cell for column in columns if (cell := table[row, column])]
        return all(cell.state == "complete" and not cell.note for cell in cells)
    return label == "reference" and all(text in ("", DASH) for text in texts)


def conventions(table: FilledTable) -> str:
    return joined(CONVENTION, PAPER_CONVENTIONS.get(table.paper_label, ""))


def summary(table: FilledTable) -> str:
    """One or two sentences on how much is there and how near it comes to the paper."""
    cells = list(table.cells.values())
    sentences = [f"{table.complete} of {len(cells)} cells are complete."]
    if interrupted := sum(cell.state == "interrupted" for cell in cells):
        sentences.append(f"{interrupted} wait for a run that was interrupted or still runs.")
    if compared := [cell.distance_class for cell in cells if cell.distance_class is not None]:
        counts = [f"{compared.count(i)} {label}" for i, (_, label) in enumerate(DISTANCE_CLASSES)]
        sentences.append(f"Distance from the paper in combined standard deviations: {', '.join(counts)}.")
    if leads := [cell.mean for cell in cells if cell.cell.minus and cell.mean is not None]:
        low, high = (number(value, 1, signed=True) for value in (min(leads), max(leads)))
        ahead = f"{sum(lead > 0 for lead in leads)} of {len(leads)} rows"
        sentences.append(f"The mean difference is positive in {ahead}, from {low} to {high} points.")
    return " ".join(sentences)


def joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
