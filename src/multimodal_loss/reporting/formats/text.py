"""Cells as text, the same in every format.

Conventions, printed under every table: +- is the sample standard deviation (ddof = 1) over replicates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from multimodal_loss.reporting.analysis.best import marks, rule
from multimodal_loss.reporting.analysis.fill import DISTANCE_CLASSES, FilledCell, FilledTable, as_read
from multimodal_loss.reporting.analysis.ranks import rank_alike
from multimodal_loss.reporting.layouts.base import Column, Row

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DASH = "\N{EN DASH}"
REFERENCES = ("paper", "reference")  # labels of the paper's numbers
MARKS = {"best": "\N{BLACK STAR}", "tied": "\N{WHITE STAR}"}

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


def ours_text(cell: FilledCell, column: Column, mark: str = "") -> str:
    said = mean_and_sd(cell.mean, cell.sd, column.decimals, column.signed) if cell.n else cell.state
    return joined(said, MARKS.get(mark, ""))


def values_text(cell: FilledCell, column: Column) -> str:
    return ", ".join(number(value, column.decimals, column.signed) for value in cell.values.values())


def difference_text(cell: FilledCell, column: Column) -> str:
    if cell.difference is None:
        return ""
    distance = "" if cell.distance is None else f" ({cell.distance:.1f} sd)"
    return number(cell.difference, column.decimals, signed=True) + distance


def replicates_text(cell: FilledCell, usual: int = 0) -> str:
    """How many of the expected replicates there are; empty where all of the `usual` number are, or none. A cell of the
    best of several runs is partial until all have ended, whatever its own run has.
    """
    if not cell.n or (cell.state == "complete" and cell.n == usual):
        return ""
    if cell.state == "partial" and cell.n == len(cell.expected):
        return cell.state
    state = "" if cell.state in ("complete", "partial") else f", {cell.state}"
    return f"{cell.n} of {len(cell.expected) or '?'}{state}"


def usual_number(table: FilledTable) -> int:
    """How many replicates the complete cells have, most of them."""
    numbers = [cell.n for cell in table.cells.values() if cell.state == "complete"]
    return max(sorted(set(numbers)), key=numbers.count, default=0)


class Footnotes:
    """Numbers the notes below a table; equal notes share a number."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def mark(self, note: str) -> str:
        """What to print in the cell: a reference such as [1], or nothing."""
        if not note:
            return ""
        if note not in self.notes:
            self.notes.append(note)
        return f"[{self.notes.index(note) + 1}]"

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(enumerate(self.notes, start=1))


@dataclass(frozen=True)
class Place:
    """One cell as it is printed: what there is of "ours", "paper" (or "reference"), "difference", "state"."""

    said: dict[str, str]
    mark: str = ""
    cell: FilledCell | None = None


@dataclass(frozen=True)
class Grid:
    """A table as it is read: methods downwards, without rows and columns of which nothing has begun, here or in the
    paper.

    `lines`: each row with its cells and, where the columns are alike, its mean rank. `absent`: the titles of what is
    left out.
    """

    table: FilledTable
    columns: Sequence[Column]
    lines: Sequence[tuple[Row, Sequence[Place], str]]
    footnotes: Footnotes
    rule: str
    absent: Sequence[str]
    ranked: str = ""  # over what the mean ranks are

    @property
    def corner(self) -> str:
        return self.table.layout.corner

    @property
    def marked(self) -> str:
        """What the marks mean; empty where there are none."""
        if not any(place.mark for _, places, _ in self.lines for place in places):
            return ""
        test = f"{MARKS['tied']} not told apart from it ({self.rule})" if self.rule else ""
        return ", ".join(filter(None, [f"{MARKS['best']} best mean of its column", test])) + "."

    @property
    def notes(self) -> list[str]:
        """What stands below the table: what is absent, the footnotes, the conventions."""
        absent = f"Not computed yet: {'; '.join(self.absent)} ({self.table.layout.command})." if self.absent else ""
        numbered = [f"[{number}] {note}" for number, note in self.footnotes]
        return [*filter(None, [absent, joined(self.marked, self.ranked, conventions(self.table))]), *numbered]

    def is_focus(self, row: Row) -> bool:
        return bool(self.table.layout.focus) and self.table.layout.focus in row.full_title


def grid(table: FilledTable, short: bool = False) -> Grid:
    """`short`: only the drawn columns."""
    table = as_read(table)
    layout, footnotes, found, usual = table.layout, Footnotes(), marks(table), usual_number(table)
    columns = [column for column in layout.columns if column.drawn or not short]
    rows, absent = list(layout.rows), list[str]()
    if table.has_values:  # otherwise all of it is what is to come
        begun = {place for place, cell in table.cells.items() if cell.state != "missing" or cell.note or cell.paper}
        places = {place[0] for place in begun}, {place[1] for place in begun}
        absent = [row.heading for row in rows if row.key not in places[0]]
        absent += [column.full_title for column in columns if column.key not in places[1]]
        rows = [row for row in rows if row.key in places[0]]
        columns = [column for column in columns if column.key in places[1]]
    ranks = rank_alike(table)
    average = {row.key: f"{rank:.1f}" for row, rank in zip(ranks.rows, ranks.average, strict=True)} if ranks else {}

    def place(row: Row, column: Column, said_once: str) -> Place:
        cell = table[row, column]
        if cell is None:
            return Place({})
        paper = cell.paper and mean_and_sd(cell.paper.mean, cell.paper.sd, column.decimals, column.signed)
        mark = found.get((row.key, column.key), "")
        said = {
            "ours": ours_text(cell, column, mark),
            table.paper_label: joined(paper, footnotes.mark(cell.paper.note)) if cell.paper and paper else "",
            "difference": difference_text(cell, column),
            "state": joined(replicates_text(cell, usual), footnotes.mark(cell.note if cell.note != said_once else "")),
        }
        return Place({label: text for label, text in said.items() if text}, mark, cell)

    lines = []
    for row in rows:
        notes = [cell.note for column in columns if (cell := table[row, column])]
        once = notes[0] if len(notes) > 1 and len(set(notes)) == 1 else ""  # of all cells: a mark beside the title
        titled = replace(row, title=joined(row.title, footnotes.mark(once)))
        lines.append((titled, [place(row, column, once) for column in columns], average.get(row.key, "")))
    over = f"Mean rank: 1 is best, over {len(ranks.columns)} columns and {len(ranks.rows)} rows." if ranks else ""
    return Grid(table, columns, lines, footnotes, rule(found, table), absent, over)


def conventions(table: FilledTable) -> str:
    usual = usual_number(table)
    number = f"{usual} replicate{'s' * (usual > 1)}, where a cell says nothing else." if usual else ""
    return joined(CONVENTION, number, PAPER_CONVENTIONS.get(table.paper_label, ""))


def summary(table: FilledTable) -> str:
    """One or two sentences on how much is there and how near it comes to the paper."""
    cells = list(table.cells.values())
    sentences = [f"{table.complete} of {len(cells)} cells are complete."]
    if interrupted := sum(cell.state == "interrupted" for cell in cells):
        sentences.append(f"{interrupted} wait for a run that was interrupted or still runs.")
    if compared := [cell.distance_class for cell in cells if cell.distance_class is not None]:
        counts = [f"{compared.count(i)} {label}" for i, (_, label) in enumerate(DISTANCE_CLASSES)]
        sentences.append(f"Distance from the paper in combined standard deviations: {', '.join(counts)}.")
    return " ".join(sentences)


def joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
