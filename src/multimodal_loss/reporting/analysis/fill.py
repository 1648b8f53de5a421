"""Filling a table's expected cells from runs, which are found by the hash of what a cell's overrides compose to.

The distance of ours from the paper's is |ours - paper| / sqrt(sd_ours^2 + sd_paper^2), in combined standard deviations;
it is undefined where one of the two has no standard deviation, or where both are 0 and the means differ.

Where a cell is of the best among several runs, these are compared by their validation part alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from multimodal_loss.reporting.analysis.paper import PaperNumber, paper_numbers
from multimodal_loss.reporting.analysis.provenance import machine, may_hold
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row, Which
from multimodal_loss.results.collect import Run, aggregate

if TYPE_CHECKING:
    from multimodal_loss.configuration import PlannedRun  # which imports Hydra

CellState = Literal["complete", "partial", "failed", "interrupted", "missing"]

# The last bound is open: what is further apart than 3 combined standard deviations.
DISTANCE_CLASSES = ((1.0, "within 1"), (2.0, "within 2"), (3.0, "within 3"), (math.inf, "more than 3"))
CHOSEN_BY = "validation/fused/ACC"
DECIMALS = 8  # of a value in the printed unit: enough to recompute from, few enough to hide the last bits of a float
UNNAMED = "by earlier code"  # a committed cell that does not say of which run it is

Plan = Callable[[Sequence[str]], "PlannedRun"]


class Runs:
    """The stored runs: found by overrides, whatever they are called, or by the name of their directory.

    Of two with the same settings the finished one counts.
    """

    def __init__(self, runs: Iterable[Run], plan: Plan) -> None:
        self.all = list(runs)
        self._by_name = {run.name: run for run in self.all}
        self._by_hash = {run.hash: run for run in sorted(self.all, key=lambda run: run.state == "done")}
        # Composing a configuration takes a tenth of a second, and several cells name the same one.
        self.plan = cache(plan)

    def find(self, which: Which) -> Run | None:
        return self._by_name.get(which) if isinstance(which, str) else self._by_hash.get(self.plan(which).hash)

    def hash_of(self, which: Which) -> str:
        return self._by_name[which].hash if isinstance(which, str) else self.plan(which).hash

    def expected(self, which: Which) -> tuple[int, ...]:
        """The ids of the replicates that the run should have."""
        if isinstance(which, str):
            return tuple(sorted(self._by_name[which].replicates))
        return tuple(self.plan(which).replicates)


@dataclass(frozen=True)
class FilledCell:
    """A cell with what was found for it, in the printed unit: `values` by replicate id, of which `expected` should be
    there.

    `paper` is the paper's number, which is only shown, not compared with, where it is of other data (a `reference`).
    """

    cell: Cell
    state: CellState
    values: Mapping[int, float]
    expected: tuple[int, ...]
    note: str = ""
    paper: PaperNumber | None = None
    run: Run | None = None
    reference: bool = False
    wanted: str = ""  # the hash of the run, or of all, that the cell is of
    lost: tuple[Run, ...] = ()  # runs that another was better than on the validation part
    test_to_train: float | None = None  # n_test / n_train, where replicates are folds

    @property
    def is_final(self) -> bool:
        """Whether no training can add to it."""
        ended = self.run is not None and self.run.state == "done" and not self.cell.among
        return self.state == "complete" or ended

    @property
    def mean(self) -> float | None:
        return aggregate(self.values.values()).mean

    @property
    def sd(self) -> float | None:
        return aggregate(self.values.values()).sd

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def target(self) -> float | None:
        """The paper's mean, where ours is compared with it."""
        return None if self.reference or self.paper is None else self.paper.mean

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.target is None or self.mean is None else self.mean - self.target

    @property
    def distance(self) -> float | None:
        """The difference in combined standard deviations; None where that is undefined."""
        difference = self.difference
        if difference is None or self.paper is None or self.paper.sd is None or self.sd is None:
            return None
        combined = math.hypot(self.sd, self.paper.sd)
        return abs(difference) / combined if combined else None if difference else 0.0

    @property
    def distance_class(self) -> int | None:
        """Index into `DISTANCE_CLASSES`."""
        distance = self.distance
        return None if distance is None else next(i for i, (most, _) in enumerate(DISTANCE_CLASSES) if distance <= most)


@dataclass(frozen=True)
class FilledTable:
    """Its times were measured on `machine`. `notices`: what must be said of the numbers of some rows, and the keys of
    these rows.
    """

    layout: Layout
    cells: Mapping[tuple[str, str], FilledCell]
    machine: str = ""
    notices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    earlier: Sequence[Mapping[str, Any]] = ()  # environments of committed results that cells were taken from

    def __getitem__(self, place: tuple[Row, Column]) -> FilledCell | None:
        row, column = place
        return self.cells.get((row.key, column.key))

    @property
    def paper_label(self) -> str:
        """What the paper's numbers are here: "paper", "reference" where they are of other data, or "" without any."""
        found = any(cell.paper for cell in self.cells.values())
        return ("reference" if self.layout.reference else "paper") if found else ""

    @property
    def has_values(self) -> bool:
        return any(cell.n for cell in self.cells.values())

    @property
    def complete(self) -> int:
        """How many cells are."""
        return sum(cell.state == "complete" for cell in self.cells.values())

    @property
    def runs(self) -> list[Run]:
        """The runs that were found for cells, each once."""
        runs = [run for cell in self.cells.values() for run in (cell.run, *cell.lost) if run]
        return list({run.name: run for run in runs}.values())

    @property
    def description(self) -> str:
        timed = self.machine and any(column.unit == "minutes" for column in self.layout.columns)
        times = f" Times are wall minutes of each replicate trained alone, on {self.machine}." if timed else ""
        return " ".join(filter(None, [self.layout.description + times, self.notice]))

    @property
    def notice(self) -> str:
        """The notices as sentences, each with the rows that it is about unless those are all that have a run."""
        with_run = {cell.cell.row for cell in self.cells.values() if cell.state != "missing"}
        sentences = []
        for notice, said in self.notices.items():
            rows = [row.full_title for row in self.layout.rows if row.key in said]
            about = "" if with_run <= set(said) else f": {', '.join(rows)}"
            sentences.append(f"{notice[0].upper()}{notice[1:]}{about}.")
        return " ".join(sentences)


def fill(layout: Layout, runs: Runs) -> FilledTable:
    """Looks every expected cell up among the runs of the layout's profile."""
    scale = {column.key: column.scale for column in layout.columns}
    cells = {}
    for cell in layout.cells:
        if cell.over:
            continue
        found = [_find(which, layout, runs) for which in cell.runs]
        expected = runs.expected(cell.runs[0])
        filled = (_best if cell.among else _fill_cell)(cell, found, expected, scale[cell.column])
        filled = replace(filled, wanted="+".join(map(runs.hash_of, cell.runs)))
        cells[cell.row, cell.column] = with_paper(filled, layout)
    cells = _with_means(layout, cells)
    return FilledTable(layout, cells, _machine(cells), notices(cells))


def with_committed(table: FilledTable, committed: FilledTable, environment: Mapping[str, Any]) -> FilledTable:
    """The table with committed cells in the place of those that have no finished run here, or fewer replicates than the
    committed one, as long as they are of the run that is wanted now, or from before cells said of which run they are,
    which is then noted; `environment` is that of the committed ones.
    """
    kept = {
        place: old if old.wanted else replace(old, note=old.note or UNNAMED)
        for place, cell in table.cells.items()
        if (old := committed.cells[place]).n
        and old.wanted in ("", cell.wanted)
        and (cell.state in ("missing", "interrupted") or _is_less(cell, old))
    }
    said = {notice: rows for notice, rows in committed.notices.items() if {row for row, _ in kept} & set(rows)}
    own = {key: value for key, value in environment.items() if key != "earlier"}
    hashes = {one for cell in kept.values() for one in cell.wanted.split("+")}
    earlier = [one for one in (own, *environment.get("earlier", [])) if kept and may_hold(one, hashes)]
    return replace(
        table,
        cells=_with_means(table.layout, {**table.cells, **kept}),
        machine=_machine(table.cells, earlier),
        notices={**said, **table.notices},
        earlier=earlier,
    )


def _machine(cells: Mapping[Any, FilledCell], earlier: Sequence[Mapping[str, Any]] = ()) -> str:
    """What the cells' runs were trained on, and those of earlier environments."""
    return machine([*(cell.run.result for cell in cells.values() if cell.run), *earlier])


def _is_less(cell: FilledCell, old: FilledCell) -> bool:
    """Whether a cell has less than the committed one, as one of the best of several runs has until all have ended."""
    return cell.state in ("partial", "failed") and (old.state == "complete" or old.n > cell.n)


def as_read(table: FilledTable) -> FilledTable:
    """The table with its methods downwards, where its layout has them across and they are its longer side."""
    layout, cells = table.layout, table.cells.values()
    if not layout.across or len(layout.columns) <= len(layout.rows):
        return table
    turned = replace(
        layout,
        rows=tuple(Row(column.key, column.title, column.group) for column in layout.columns),
        columns=tuple(
            replace(layout.columns[0], key=row.key, title=row.title, group=row.group, note=row.note)
            for row in layout.rows
        ),
        corner=layout.across,
    )
    said = {
        notice: list(dict.fromkeys(one.cell.column for one in cells if one.cell.row in rows and one.run))
        for notice, rows in table.notices.items()
    }
    swapped = [replace(one, cell=replace(one.cell, row=one.cell.column, column=one.cell.row)) for one in cells]
    return replace(table, layout=turned, cells={(one.cell.row, one.cell.column): one for one in swapped}, notices=said)


def with_paper(filled: FilledCell, layout: Layout) -> FilledCell:
    """The cell with the paper's number."""
    number = paper_numbers().get(filled.cell.paper) if filled.cell.paper else None
    return replace(filled, paper=number, reference=layout.reference)


def _with_means(layout: Layout, cells: Mapping[tuple[str, str], FilledCell]) -> dict[tuple[str, str], FilledCell]:
    """The cells, in the layout's order, with those that are means of others: of these the complete ones count."""
    every = dict(cells)
    for cell in (one for one in layout.cells if one.over):
        parts = {number: cells[cell.row, column] for number, column in cell.over}
        values = {n: part.mean for n, part in parts.items() if part.state == "complete" and part.mean is not None}
        state: CellState = "complete" if len(values) == len(parts) else "partial" if values else "missing"
        wanted = "+".join(part.wanted for part in parts.values())
        every[cell.row, cell.column] = with_paper(FilledCell(cell, state, values, tuple(parts), wanted=wanted), layout)
    return {(cell.row, cell.column): every[cell.row, cell.column] for cell in layout.cells}


def _find(which: Which, layout: Layout, runs: Runs) -> Run | str:
    """The run, or why there is none."""
    run = runs.find(which)
    if run is None:
        return ""
    if run.state not in ("done", "failed"):
        return run
    if run.profile != layout.profile:
        return f"the run has profile {run.profile}, only {layout.profile} counts here"
    dataset = run.get("config/facts/dataset/name")
    if layout.dataset and dataset != layout.dataset:
        return f"the run has dataset {dataset}, only {layout.dataset} counts here"
    if layout.dataset and layout.profile == "full" and run.is_of_generated_data:
        return "the run is of generated data, which never counts here"
    return run


def _fill_cell(cell: Cell, found: Sequence[Run | str], expected: tuple[int, ...], scale: float) -> FilledCell:
    runs = [run for run in found if isinstance(run, Run)]
    if len(runs) < len(found):
        notes = [reason for reason in found if isinstance(reason, str) and reason]
        return FilledCell(cell, "missing", {}, expected, "; ".join(notes))
    values = runs[0].values(cell.metric)
    if len(runs) == 2:
        other = runs[1].values(cell.metric)
        values = {one: values[one] - other[one] for one in values if one in other}
    notes = [note for run in runs for note in (run.reason, _cap(run)) if note]
    if not cell.of_every_replicate:
        expected = tuple(values)
    state = _state(runs, values, expected)
    if state == "missing" and not notes:
        notes = [f"the run has no {cell.metric}"]
    trained = set(expected).intersection(*(run.replicates for run in runs))
    undefined = [str(number) for number in sorted(trained - values.keys())]
    if state == "partial" and undefined:
        notes.append(f"undefined in replicate {', '.join(undefined)}, whose test part lacks a class, say")
    # As they are committed, so that a cell of this machine and one of another are compared alike.
    scaled = {one: round(value * scale, DECIMALS) for one, value in values.items()}
    by_fold = all(replicate.get("fold") is not None for run in runs for replicate in run.replicates.values())
    ratio = test_to_train(runs[0]) if by_fold else None
    return FilledCell(cell, state, scaled, expected, "; ".join(dict.fromkeys(notes)), run=runs[0], test_to_train=ratio)


def test_to_train(run: Run) -> float | None:
    """n_test / n_train of a run that says both."""
    test, train = (run.get(f"dataset/sizes/{split}") for split in ("test", "train"))
    if isinstance(test, int) and isinstance(train, int) and test > 0 and train > 0:
        return round(test / train, DECIMALS)
    return None


def _best(cell: Cell, found: Sequence[Run | str], expected: tuple[int, ...], scale: float) -> FilledCell:
    """The cell of the run that its validation part speaks for, of equals the first; its note says which one that is.
    It is complete when all runs have ended; one that failed is not chosen, and named.
    """
    filled = [_fill_cell(cell, [run], expected, scale) for run in found]
    scores: dict[int, float] = {}
    for number, (run, one) in enumerate(zip(found, filled, strict=True)):
        score = aggregate(run.values(CHOSEN_BY).values()).mean if isinstance(run, Run) else None
        if one.state == "complete" and score is not None:
            scores[number] = score
    if not scores:
        return next((one for one in filled if one.state != "missing"), filled[0])
    chosen = max(scores, key=lambda number: scores[number])
    common = set(cell.among[0]).intersection(*cell.among)
    own = [" ".join(override for override in overrides if override not in common) for overrides in cell.among]
    failed = [own[number] for number, one in enumerate(filled) if one.state == "failed"]
    best, said = filled[chosen], [own[chosen], *(f"{name} failed" for name in failed)]
    ended = len(scores) + len(failed)
    if ended < len(filled):
        best = replace(best, state="partial")
        said.append(f"{ended} of {len(filled)} runs have ended")
    lost = tuple(run for run in found if isinstance(run, Run) and run is not best.run)
    return replace(best, note="; ".join(filter(None, [*said, best.note])), lost=lost)


def _state(runs: Sequence[Run], values: Mapping[int, float], expected: tuple[int, ...]) -> CellState:
    states = {run.state for run in runs}
    if states & {"failed", "unfinished"}:
        return "failed" if "failed" in states else "interrupted"
    if not values:
        return "missing"
    return "complete" if values.keys() >= set(expected) else "partial"


def _cap(run: Run) -> str:
    """How many replicates the iteration cap stopped; empty if none, or if tuning or a quick profile says how long."""
    if run.get("config/tuning") or run.profile == "quick":
        return ""
    stopped = [replicate.get("stopped") == "max_epochs" for replicate in run.replicates.values()]
    cap = run.get("config/trainer/max_epochs")
    return f"cap {cap:,}: {sum(stopped)} of {len(stopped)}" if any(stopped) and isinstance(cap, int) else ""


def notices(cells: Mapping[tuple[str, str], FilledCell]) -> dict[str, list[str]]:
    """What the backbones of the runs ask to be said, each with its rows."""
    said: dict[str, list[str]] = {}
    for cell in cells.values():
        notice = cell.run.get("backbone/notice") if cell.run else None
        if isinstance(notice, str) and notice and cell.cell.row not in said.setdefault(notice, []):
            said[notice].append(cell.cell.row)
    return said
