"""A table's cells as CSV, the form in which results are committed, and back."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from multimodal_loss.reporting.analysis.fill import DECIMALS, FilledCell, FilledTable, with_paper
from multimodal_loss.reporting.analysis.paper import PaperNumber
from multimodal_loss.reporting.layouts.base import Layout

CSV_FIELDS = (
    *("table", "row", "column", "metric", "paper_mean", "paper_sd", "mean", "sd", "n", "expected"),
    *("difference", "distance", "state", "note", "values"),
)
# After the others: files that were written before they were there lack them.
REPLICATES, WANTED, RATIO = "replicates", "run", "test_to_train"  # the last where replicates are folds
REFERENCE_FIELDS = ("reference_mean", "reference_sd")  # the further columns of a table on other data than the paper's


def cells_csv(table: FilledTable) -> str:
    """One line per cell, in the printed unit. `replicates` holds the ids of those that are there or expected, `values`
    their values in the same order, empty where one is missing; `run` is the hash of the run that the cell is of.
    """
    fields = [*CSV_FIELDS, REPLICATES, WANTED, *(REFERENCE_FIELDS if table.paper_label == "reference" else ())]
    fields += [RATIO] * any(cell.test_to_train for cell in table.cells.values())
    rows = [_row(table.layout.name, cell) for cell in table.cells.values()]
    return pd.DataFrame(rows, columns=fields).to_csv(index=False, lineterminator="\n")


def from_csv(
    layout: Layout, text: str, machine: str = "", notices: Mapping[str, Sequence[str]] | None = None
) -> FilledTable:
    """The table that `cells_csv` wrote; a cell of the layout that the file lacks is missing.

    Raises ValueError if the file holds other cells or columns.
    """
    known = {(cell.row, cell.column): cell for cell in layout.cells}
    cells = {place: with_paper(FilledCell(cell, "missing", {}, ()), layout) for place, cell in known.items()}
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if missing := set(CSV_FIELDS) - set(frame):
        raise ValueError(f"no columns {', '.join(sorted(missing))}")
    for line in frame.to_dict("records"):
        cell = known.get((line["row"], line["column"]))
        if cell is None or line["table"] != layout.name:
            raise ValueError(f"{layout.name} has no cell {line['row']}, {line['column']}")
        texts = line["values"].split(";") if line["values"] else []
        ids = [int(one) for one in line[REPLICATES].split(";") if one] if REPLICATES in line else range(len(texts))
        values = {one: float(text) for one, text in zip(ids, texts, strict=False) if text}
        expected = tuple(ids)[: int(line["expected"])]
        state: Any = line["state"]
        filled = FilledCell(cell, state, values, expected, line["note"], wanted=line.get(WANTED, ""))
        filled = replace(filled, test_to_train=float(line[RATIO]) if line.get(RATIO) else None)
        cells[cell.row, cell.column] = with_paper(filled, layout)
    return FilledTable(layout, cells, machine, notices or {})


def _row(table: str, cell: FilledCell) -> dict[str, object]:
    paper, kind = cell.paper or PaperNumber(None, None), "reference" if cell.reference else "paper"
    ids = sorted({*cell.expected, *cell.values})
    numbers = {"mean": cell.mean, "sd": cell.sd, "difference": cell.difference, "distance": cell.distance}
    numbers |= {f"{kind}_mean": paper.mean, f"{kind}_sd": paper.sd}
    return {
        "table": table,
        "row": _text(cell.cell.row),
        "column": _text(cell.cell.column),
        "metric": _text(cell.cell.metric),
        "n": cell.n,
        "expected": len(cell.expected),
        "state": cell.state,
        "note": _text(cell.note),
        "values": ";".join(_exact(cell.values.get(one)) for one in ids),
        REPLICATES: ";".join(map(str, ids)),
        WANTED: cell.wanted,
        RATIO: _exact(cell.test_to_train),
    } | {name: _exact(value) for name, value in numbers.items()}


def _text(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _exact(value: float | None) -> str:
    return "" if value is None else f"{round(value, DECIMALS) + 0.0:.12g}"
