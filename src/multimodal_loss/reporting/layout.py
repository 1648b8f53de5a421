"""What a table is made of: rows, columns, cells and the runs that are shown below it."""

from dataclasses import dataclass
from typing import Literal

from multimodal_loss.reporting.paper import PaperKey

Overrides = tuple[str, ...]
LayoutKind = Literal["table", "table_3", "figure_5", "appendix_c"]

METHOD_TITLES = {
    "unimodal": "Unimodal",
    "early": "Early fusion",
    "intermediate": "Intermediate fusion",
    "sum_ce": "SUM + CE",
    "weighted_sum_ce": "Weighted SUM + CE",
    "nn_ce": "NN + CE",
    "mulmix": "Mulmix",
    "soft_triple": "SoftTriple",
    "proxy_anchor": "ProxyAnchor",
    "multimodal": "MultiModal",
    "multitask": "Multitask",
    "logistic": "Logistic regression",
}
PAPER_METHODS = ("unimodal", "sum_ce", "nn_ce", "mulmix", "soft_triple", "proxy_anchor", "multimodal")


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    group: str = ""  # neighbouring rows of the same group stand under one heading

    @property
    def full_title(self) -> str:
        return f"{self.group}, {self.title}" if self.group else self.title


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

    @property
    def full_title(self) -> str:
        return f"{self.group} {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Cell:
    row: str
    column: str
    overrides: Overrides
    # Split, fused or modalities/<name>, metric; or a replicate's entry such as `seconds`.
    metric: str = "test/fused/ACC"
    paper: PaperKey | None = None
    expected: int = 5  # replicates
    minus: Overrides = ()  # a second run: the cell is the difference of the two, replicate by replicate


@dataclass(frozen=True)
class Shown:
    """A run in figures and the calibration table. Runs of the same `panel` (unimodal ones) share it in Figure 4."""

    method: str
    label: str
    panel: str
    overrides: Overrides


@dataclass(frozen=True)
class Condition:
    """One data condition, with the runs that are compared under it in figures and in the calibration table."""

    key: str
    title: str
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Layout:
    """A table of expected cells. `profile` is the only profile whose runs may fill it.

    `dataset`: the only dataset whose runs can fill it, where there is one; a table without such runs is not looked up.
    `reference`: the paper's numbers are of another dataset than the table's, so they are shown but never compared.
    `compared`: the column on which every pair of rows is tested, where replicates are folds; empty for none.
    `kind`: what is drawn from it beside the overview. `shared_runs`: how many of its runs fill an earlier table too, so
    that they alone do not start this one. `notice`: what must be said of all its numbers, on the page and in pictures.
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
    dataset: str = ""
    reference: bool = False
    compared: str = ""
    kind: LayoutKind = "table"
    shared_runs: int = 0
    notice: str = ""
