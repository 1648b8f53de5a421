"""Filling a table's expected cells from runs, and writing it as Markdown, LaTeX and CSV.

Conventions, printed under every table: +- is the sample standard deviation (ddof = 1) over replicates. The distance of
ours from the paper's is |ours - paper| / sqrt(sd_ours^2 + sd_paper^2), in combined standard deviations; it is undefined
where one of the two has no standard deviation, or where both are 0 and the means differ.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from multimodal_loss.reporting.layout import Cell, Column, Layout, Overrides, Row
from multimodal_loss.reporting.paper import PaperNumber, paper_numbers
from multimodal_loss.reporting.provenance import machine
from multimodal_loss.results.collect import Run, aggregate

CellState = Literal["complete", "partial", "failed", "missing"]
RunName = Callable[[Sequence[str]], str]  # overrides -> name of the run directory

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DASH = "\N{EN DASH}"
LONGEST_NOTE_IN_CELL = 28  # longer notes stand below the table

# The last bound is open: what is further apart than 3 combined standard deviations.
DISTANCE_CLASSES = ((1.0, "within 1"), (2.0, "within 2"), (3.0, "within 3"), (math.inf, "more than 3"))

CONVENTION = f"{PLUS_MINUS} is the sample standard deviation (ddof = 1) over replicates."
PAPER_CONVENTION = (
    "Difference is ours minus the paper's; in brackets |difference| / sqrt(sd_ours\N{SUPERSCRIPT TWO} + "
    "sd_paper\N{SUPERSCRIPT TWO}), in combined standard deviations (sd)."
)
REFERENCE_CONVENTION = (
    "Reference is the paper's number on its own, other data: no target, and no difference from it is formed."
)
CSV_FIELDS = (
    *("table", "row", "column", "metric", "paper_mean", "paper_sd", "mean", "sd", "n", "expected"),
    *("difference", "distance", "state", "note", "values"),
)
REFERENCE_FIELDS = ("reference_mean", "reference_sd")  # the further columns of a table on other data than the paper's


@dataclass(frozen=True)
class FilledCell:
    """A cell with what was found for it, in the printed unit; `values` by replicate, None where one is missing.

    `paper` is compared with, `reference` (the paper's number on other data) is shown only.
    """

    cell: Cell
    state: CellState
    values: tuple[float | None, ...]
    note: str = ""
    paper: PaperNumber | None = None
    run: Run | None = None
    reference: PaperNumber | None = None

    @property
    def published(self) -> PaperNumber | None:
        return self.paper or self.reference

    @property
    def _found(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        return aggregate(self._found).mean

    @property
    def sd(self) -> float | None:
        return aggregate(self._found).sd

    @property
    def n(self) -> int:
        return len(self._found)

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.paper is None or self.paper.mean is None or self.mean is None:
            return None
        return self.mean - self.paper.mean

    @property
    def distance(self) -> float | None:
        """The difference in combined standard deviations; None where that is undefined."""
        difference = self.difference
        if difference is None or self.paper is None or self.paper.sd is None or self.sd is None:
            return None
        combined = math.hypot(self.sd, self.paper.sd)
        if combined == 0:
            return 0.0 if difference == 0 else None
        return abs(difference) / combined

    @property
    def distance_class(self) -> int | None:
        """Index into `DISTANCE_CLASSES`."""
        distance = self.distance
        if distance is None:
            return None
        return next(i for i, (bound, _) in enumerate(DISTANCE_CLASSES) if distance <= bound)


@dataclass(frozen=True)
class FilledTable:
    """`data_seeds` are those that the runs of each row used; the paper does not state its own. Its times were measured
    on `machine`.
    """

    layout: Layout
    cells: Mapping[tuple[str, str], FilledCell]
    data_seeds: Mapping[str, Sequence[int]] = field(default_factory=dict)
    machine: str = ""

    def __getitem__(self, place: tuple[Row, Column]) -> FilledCell | None:
        row, column = place
        return self.cells.get((row.key, column.key))

    @property
    def has_paper(self) -> bool:
        return any(cell.paper is not None for cell in self.cells.values())

    @property
    def has_reference(self) -> bool:
        return any(cell.reference is not None for cell in self.cells.values())

    @property
    def has_values(self) -> bool:
        return any(cell.n for cell in self.cells.values())

    @property
    def runs(self) -> list[Run]:
        """The runs that were found for cells, each once."""
        return list({cell.run.name: cell.run for cell in self.cells.values() if cell.run}.values())

    def row_note(self, row: Row) -> str:
        """The row's data seed, unless its title says it or all rows share it."""
        seeds = self.data_seeds.get(row.key)
        if not seeds or self._shared_seeds or "data seed" in row.full_title:
            return ""
        return f"data seed {', '.join(map(str, seeds))}"

    def row_title(self, row: Row) -> str:
        note = self.row_note(row)
        return f"{row.full_title} ({note})" if note else row.full_title

    @property
    def _shared_seeds(self) -> Sequence[int]:
        """The data seeds of every row, where all have the same."""
        every = list(self.data_seeds.values())
        return every[0] if every and all(seeds == every[0] for seeds in every) else []

    @property
    def description(self) -> str:
        seeds = f" Data seed {', '.join(map(str, self._shared_seeds))}." if self._shared_seeds else ""
        timed = self.machine and any(column.unit == "minutes" for column in self.layout.columns)
        times = f" Times are wall minutes of each replicate trained alone, on {self.machine}." if timed else ""
        return self.layout.description + seeds + times


# Filling


def fill(layout: Layout, runs: Mapping[str, Run], run_name: RunName) -> FilledTable:
    """Looks every expected cell up among the runs of the layout's profile."""
    scale = {column.key: column.scale for column in layout.columns}
    cells = {}
    for cell in layout.cells:
        found = [_find(overrides, layout, runs, run_name) for overrides in (cell.overrides, cell.minus) if overrides]
        cells[cell.row, cell.column] = _with_published(_fill_cell(cell, found, scale[cell.column]), layout)
    results = [cell.run.result for cell in cells.values() if cell.run]
    return FilledTable(layout, cells, data_seeds(cells), machine(results))


def _with_published(filled: FilledCell, layout: Layout) -> FilledCell:
    """The cell with the paper's number, to compare with or as a reference."""
    number = paper_numbers()[filled.cell.paper] if filled.cell.paper else None
    return replace(filled, reference=number) if layout.reference else replace(filled, paper=number)


def _find(overrides: Overrides, layout: Layout, runs: Mapping[str, Run], run_name: RunName) -> Run | str:
    """The run, or why there is none."""
    run = runs.get(run_name(overrides)) if runs else None
    if run is None:
        return ""
    if run.state not in ("done", "failed"):
        return run
    if run.profile != layout.profile:
        return f"the run has profile {run.profile}, only {layout.profile} counts here"
    dataset = run.get("config/dataset/name")
    if layout.dataset and dataset != layout.dataset:
        return f"the run has dataset {dataset}, only {layout.dataset} counts here"
    if layout.profile == "full" and run.is_of_generated_data:
        return "the run is of generated data, which never counts here"
    return run


def _fill_cell(cell: Cell, found: Sequence[Run | str], scale: float) -> FilledCell:
    runs = [run for run in found if isinstance(run, Run)]
    if len(runs) < len(found):
        notes = [reason for reason in found if isinstance(reason, str) and reason]
        return FilledCell(cell, "missing", (None,) * cell.expected, "; ".join(notes))
    values = runs[0].values(cell.metric)
    if len(runs) == 2:
        other = runs[1].values(cell.metric)
        values = {number: values[number] - other[number] for number in values if number in other}
    slots = range(max([cell.expected, *(number + 1 for number in values)]))
    scaled = tuple(values[number] * scale if number in values else None for number in slots)
    notes = [note for run in runs for note in (run.reason, _cap(run)) if note]
    state = _state(cell, runs, len(values))
    if state == "missing" and not notes:
        notes = [f"the run has no {cell.metric}"]
    return FilledCell(cell, state, scaled, "; ".join(dict.fromkeys(notes)), run=runs[0])


def _state(cell: Cell, runs: Sequence[Run], n: int) -> CellState:
    if any(run.state == "failed" for run in runs):
        return "failed"
    if n == 0:
        return "missing"
    return "complete" if n >= cell.expected else "partial"


def _cap(run: Run) -> str:
    """How many replicates the iteration cap stopped; empty if none."""
    stopped = [replicate.get("stopped") == "max_epochs" for replicate in run.replicates.values()]
    cap = run.get("config/trainer/max_epochs")
    if not any(stopped) or not isinstance(cap, int):
        return ""
    return f"cap {cap:,}: {sum(stopped)} of {len(stopped)}"


def data_seeds(cells: Mapping[tuple[str, str], FilledCell]) -> dict[str, list[int]]:
    """The data seeds that the runs of each row used."""
    seeds: dict[str, set[int]] = {}
    for cell in cells.values():
        seed = cell.run.get("config/dataset/data_seed") if cell.run else None
        if isinstance(seed, int):
            seeds.setdefault(cell.cell.row, set()).add(seed)
    return {row: sorted(found) for row, found in seeds.items()}


# Text for one cell


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    if value is None:
        return DASH
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def mean_and_sd(mean: float | None, sd: float | None, column: Column) -> str:
    if mean is None:
        return DASH
    spread = f" {PLUS_MINUS} {number(sd, column.decimals)}" if sd is not None else ""
    return number(mean, column.decimals, column.signed) + spread


def paper_text(cell: FilledCell, column: Column) -> str:
    return mean_and_sd(cell.published.mean, cell.published.sd, column) if cell.published else DASH


def ours_text(cell: FilledCell, column: Column) -> str:
    return mean_and_sd(cell.mean, cell.sd, column) if cell.n else cell.state


def difference_text(cell: FilledCell, column: Column) -> str:
    if cell.difference is None:
        return DASH
    distance = "" if cell.distance is None else f" ({cell.distance:.1f} sd)"
    return number(cell.difference, column.decimals, signed=True) + distance


def replicates_text(cell: FilledCell) -> str:
    state = f", {cell.state}" if cell.n and cell.state != "complete" else ""
    return f"{cell.n} of {cell.cell.expected}{state}"


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


# Whole tables


def lines(table: FilledTable, row: Row, footnotes: Footnotes) -> list[tuple[str, list[str]]]:
    """A row as the lines of text that it is printed on: paper (or reference), ours, difference, replicates."""
    places = [(table[row, column], column) for column in table.layout.columns]

    def line(text: Callable[[FilledCell, Column], str]) -> list[str]:
        return [text(cell, column) if cell else "" for cell, column in places]

    def paper(cell: FilledCell, column: Column) -> str:
        return _joined(paper_text(cell, column), footnotes.mark(cell.published.note if cell.published else ""))

    def replicates(cell: FilledCell, _: Column) -> str:
        return _joined(replicates_text(cell), footnotes.mark(cell.note))

    ours = [("ours", line(ours_text))]
    last = [("replicates", line(replicates))]
    if table.has_reference:
        return [("reference", line(paper)), *ours, *last]
    if not table.has_paper:
        return ours + last
    return [("paper", line(paper)), *ours, ("difference", line(difference_text)), *last]


def column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Headings over neighbouring columns, with how many columns each spans; a column without a group stands alone."""
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and column.group and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def conventions(table: FilledTable) -> str:
    further = PAPER_CONVENTION if table.has_paper else REFERENCE_CONVENTION if table.has_reference else ""
    return _joined(CONVENTION, further)


def summary(table: FilledTable) -> str:
    """One or two sentences on how much is there and how near it comes to the paper."""
    cells = list(table.cells.values())
    complete = sum(cell.state == "complete" for cell in cells)
    sentences = [f"{complete} of {len(cells)} cells are complete."]
    compared = [cell.distance_class for cell in cells if cell.distance_class is not None]
    if compared:
        counts = [f"{compared.count(i)} {label}" for i, (_, label) in enumerate(DISTANCE_CLASSES)]
        sentences.append(f"Distance from the paper in combined standard deviations: {', '.join(counts)}.")
    leads = [cell.mean for cell in cells if cell.cell.minus and cell.mean is not None]
    if leads:
        low, high = (number(value, 1, signed=True) for value in (min(leads), max(leads)))
        ahead = sum(lead > 0 for lead in leads)
        sentences.append(
            f"The mean difference is positive in {ahead} of {len(leads)} rows, from {low} to {high} points."
        )
    return " ".join(sentences)


def shortened(table: FilledTable) -> FilledTable:
    """The table without the columns that are not drawn in its overview."""
    columns = tuple(column for column in table.layout.columns if column.drawn)
    return replace(table, layout=replace(table.layout, columns=columns))


def says_nothing(table: FilledTable, row: Row, label: str, texts: Sequence[str]) -> bool:
    """Whether a line of `lines` may be left out: replicates if none is missing, reference if the paper has none."""
    if label == "replicates":
        cells = [cell for column in table.layout.columns if (cell := table[row, column])]
        return all(cell.state == "complete" and not cell.note for cell in cells)
    return label == "reference" and all(text in ("", DASH) for text in texts)


def markdown(table: FilledTable, short: bool = False) -> str:
    """`short`, for a README: only the drawn columns, and no line that `says_nothing`; the summary counts all cells."""
    shown = shortened(table) if short else table
    layout, footnotes = shown.layout, Footnotes()
    header = [layout.corner, "", *(_markdown_escape(column.full_title) for column in layout.columns)]
    rows = [header, ["---", "---", *("---:" for _ in layout.columns)]]
    for row in layout.rows:
        said = [line for line in lines(shown, row, footnotes) if not (short and says_nothing(shown, row, *line))]
        for i, (label, texts) in enumerate(said):
            emphasised = [f"**{text}**" if label == "ours" and text else text for text in map(_markdown_escape, texts)]
            rows.append([f"**{_markdown_escape(table.row_title(row))}**" if i == 0 else "", label, *emphasised])
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    notes = "".join(f"\n[{i}] {_markdown_escape(note)}\n" for i, note in footnotes)
    return (
        f"**{_markdown_escape(layout.title)}**\n\n{_markdown_escape(table.description)}\n\n{body}\n\n"
        f"{_markdown_escape(summary(table))} {_markdown_escape(conventions(table))}\n{notes}"
    )


def latex(table: FilledTable) -> str:
    """A `table` environment; its document needs \\usepackage{booktabs}."""
    layout, footnotes = table.layout, Footnotes()
    blocks = []
    for row in layout.rows:
        block = []
        for i, (label, texts) in enumerate(lines(table, row, footnotes)):
            cells = [table.row_title(row) if i == 0 else "", label, *texts]
            block.append(" & ".join(map(_latex_escape, cells)) + r" \\")
        blocks.append("\n".join(block))
    notes = [f"[{i}] {note}" for i, note in footnotes]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_latex_escape(layout.title)}. {_latex_escape(table.description)}}}",
            rf"\label{{tab:{layout.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{ll{'r' * len(layout.columns)}}}",
            r"\toprule",
            *_latex_header(layout),
            r"\midrule",
            "\n\\addlinespace\n".join(blocks),
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\smallskip\raggedright " + r" \\".join(map(_latex_escape, [conventions(table), *notes])),
            r"\end{table}",
            "",
        ]
    )


def long_csv(table: FilledTable) -> str:
    """One line per cell, in the printed unit; `values` holds the replicates in order, empty where one is missing."""
    text = io.StringIO()
    further = REFERENCE_FIELDS if table.has_reference else ()
    writer = csv.DictWriter(text, (*CSV_FIELDS, *further), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for cell in table.cells.values():
        paper, reference = (number or PaperNumber(None, None) for number in (cell.paper, cell.reference))
        numbers = {
            "paper_mean": paper.mean,
            "paper_sd": paper.sd,
            "mean": cell.mean,
            "sd": cell.sd,
            "difference": cell.difference,
            "distance": cell.distance,
            "reference_mean": reference.mean,
            "reference_sd": reference.sd,
        }
        writer.writerow(
            {
                "table": table.layout.name,
                "row": cell.cell.row,
                "column": cell.cell.column,
                "metric": cell.cell.metric,
                "n": cell.n,
                "expected": cell.cell.expected,
                "state": cell.state,
                "note": cell.note,
                "values": ";".join(_exact(value) for value in cell.values),
            }
            | {name: _exact(value) for name, value in numbers.items()}
        )
    return text.getvalue()


def wide_csv(table: FilledTable) -> str:
    """One line per row, for plotting: n, mean and sd of each column in the printed unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = table.layout.columns
    writer.writerow([table.layout.corner, *(f"{c.key}_{part}" for c in columns for part in ("mean", "sd", "n"))])
    for row in table.layout.rows:
        cells = [table[row, column] for column in columns]
        parts = [part for cell in cells if cell for part in (_exact(cell.mean), _exact(cell.sd), str(cell.n))]
        writer.writerow([row.title, *parts])
    return text.getvalue()


def from_csv(layout: Layout, text: str, data_seeds: Mapping[str, Sequence[int]], machine: str = "") -> FilledTable:
    """The table that `long_csv` wrote. ValueError if the file does not hold exactly this layout's cells."""
    expected = {(cell.row, cell.column): cell for cell in layout.cells}
    cells = {}
    for line in csv.DictReader(io.StringIO(text)):
        cell = expected.get((line["row"], line["column"]))
        if cell is None or line["table"] != layout.name:
            raise ValueError(f"{layout.name} has no cell {line['row']}, {line['column']}")
        values = tuple(float(value) if value else None for value in line["values"].split(";"))
        state: Any = line["state"]
        cells[cell.row, cell.column] = _with_published(FilledCell(cell, state, values, line["note"]), layout)
    if len(cells) < len(expected):
        raise ValueError(f"{len(expected) - len(cells)} cells of {layout.name} are not in the file")
    return FilledTable(layout, cells, data_seeds, machine)


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _exact(value: float | None) -> str:
    """Eight decimals: enough to recompute from, few enough to hide the last bits of a float."""
    return "" if value is None else f"{round(value, 8) + 0.0:.12g}"


def _latex_header(layout: Layout) -> list[str]:
    groups = column_groups(layout.columns)
    titles = [layout.corner, "", *(column.title for column in layout.columns)]
    header = [" & ".join(map(_latex_escape, titles)) + r" \\"]
    if not any(name for name, _ in groups):
        return header
    spans, rules, position = [], [], 3
    for name, width in groups:
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex_escape(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{position}-{position + width - 1}}}")
        position += width
    return ["& & " + " & ".join(spans) + r" \\", "".join(rules), *header]


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bracket after \\ would be read as its option
    PLUS_MINUS: r"$\pm$",
    MINUS: "$-$",
    DASH: "--",
    "\N{SUPERSCRIPT TWO}": "$^2$",
}


def _latex_escape(text: str) -> str:
    """Plain text for LaTeX; what it has no name for becomes a question mark."""
    return "".join(_LATEX.get(letter, letter if letter.isascii() else "?") for letter in text)


def _markdown_escape(text: str) -> str:
    for letter in "\\`*_|<>":
        text = text.replace(letter, {"<": "&lt;", ">": "&gt;"}.get(letter, "\\" + letter))
    return text
