"""What a table is made of: rows, columns, cells, and the runs and pictures that are shown below it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from multimodal_loss.reporting.figures.base import Picture
from multimodal_loss.reporting.layouts.conf import dataset_title

Overrides = tuple[str, ...]  # what one would type after `python -m multimodal_loss.train`
METHOD, RUN = "Method", "Run"  # corners of tables whose rows compete
Which = Overrides | str  # a run: by what is typed for it, or, where it is there already, by the name of its directory
PaperKey = tuple[str, str, str]  # table, row, column in paper_tables.csv


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    group: str = ""  # neighbouring rows of the same group stand under one heading
    note: str = ""  # behind the title in tables, not in pictures

    @property
    def full_title(self) -> str:
        return f"{self.group}, {self.title}" if self.group else self.title

    @property
    def heading(self) -> str:
        return f"{self.full_title} ({self.note})" if self.note else self.full_title


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    group: str = ""
    scale: float = 100.0  # from the metric to what is printed: fractions become percent
    decimals: int = 1
    signed: bool = False  # a difference: printed with its sign
    unit: str = "percent"
    drawn: bool = True  # in the overview and on the terminal
    note: str = ""  # as in a row

    @property
    def full_title(self) -> str:
        return f"{self.group} {self.title}" if self.group else self.title

    @property
    def heading(self) -> str:
        return f"{self.full_title} ({self.note})" if self.note else self.full_title


@dataclass(frozen=True)
class Cell:
    """The run that fills it, the metric that it shows, and the paper's number for it.

    `among`: several runs instead, of which the one with the best mean validation accuracy over replicates fills it.
    `over`: no run at all: its values are the means of other cells of its row, each the value of the id that stands with
    the cell's column.
    """

    row: str
    column: str
    run: Which = ()
    # Split, fused or modalities/<name>, metric; or a replicate's entry such as `seconds`.
    metric: str = "test/fused/ACC"
    paper: PaperKey | None = None
    minus: Overrides = ()  # a second run: the cell is the difference of the two, replicate by replicate
    of_every_replicate: bool = True  # otherwise those that have the metric are all that should
    among: tuple[Overrides, ...] = ()
    over: tuple[tuple[int, str], ...] = ()

    @property
    def runs(self) -> tuple[Which, ...]:
        """Every run that it needs."""
        return self.among or tuple(which for which in (self.run, self.minus) if which)


@dataclass(frozen=True)
class Shown:
    """A run in figures and the calibration table. Runs of the same `panel` (unimodal ones) share it in Figure 4."""

    key: str
    label: str
    run: Which
    panel: str = ""


@dataclass(frozen=True)
class Condition:
    """One data condition, with the runs that are compared under it.

    `pictures`: functions (condition, [(shown, run), ...]) that draw the finished runs. `judged`: whether calibration
    and own predictions are listed; false where an earlier table lists the same runs. `without_pictures`: what to say
    where none could be drawn.
    """

    key: str
    title: str
    shown: tuple[Shown, ...]
    pictures: tuple[Callable[..., Iterator[Picture]], ...] = ()
    judged: bool = True
    without_pictures: str = ""


@dataclass(frozen=True)
class Layout:
    """A table of expected cells. `profile` is the only profile whose runs may fill it.

    `dataset`: the name of the only dataset whose runs can fill it, where there is one. `reference`: the paper's numbers
    are of other data than the table's, so they are shown but never compared. `compared`: the column, or columns, on
    which every pair of rows is tested, where replicates are folds or draws of the data; empty for none. `against`: keys
    of rows, one of which a pair must have to be tested; empty for every pair. `focus`: what the titles of the rows
    contain that the verdict is about, and that are marked. `across`: what the columns are called where these are the
    methods: the table is read turned, with methods downwards, if that is its longer side. `rivals`: whether the methods
    compete; not where the rows are readings of several, or a column is one rate for all. `verdicts`: functions (table)
    that say something of its cells, each line a paragraph, or nothing. `pictures`: functions (table) that draw its
    cells. `notice`: what must be said of all its numbers, on the page and in pictures. `offered`: whether it is named
    where it has not been run; a variant of another table is an offer that the other makes.
    """

    name: str
    title: str
    description: str
    command: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    conditions: tuple[Condition, ...] = ()
    profile: str = "full"
    corner: str = ""  # the heading above the row titles
    across: str = ""
    rivals: bool = True
    dataset: str = ""
    reference: bool = False
    compared: str | tuple[str, ...] = ""
    against: tuple[str, ...] = ()
    focus: str = "MultiModal"
    verdicts: tuple[Callable[..., str], ...] = ()
    pictures: tuple[Callable[..., Iterator[Picture]], ...] = ()
    notice: str = ""
    offered: bool = True

    @property
    def rows_compete(self) -> bool:
        """Whether one row of a column is better than another."""
        return self.rivals and (self.corner in (METHOD, RUN) or bool(self.compared))

    @property
    def draws(self) -> bool:
        """Whether means over draws of the data are compared, which share no samples as folds do."""
        return any(cell.over for cell in self.cells)

    @property
    def data(self) -> str:
        """What its data are called in the list of tables."""
        return dataset_title(self.dataset) if self.dataset else ""
