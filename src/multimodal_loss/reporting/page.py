"""One self-contained HTML page: no network, styles and pictures inside, everything from the runs escaped."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from multimodal_loss.reporting import tables
from multimodal_loss.reporting.conditions import CALIBRATION_COLUMNS, PROXY_COUNTS, Findings
from multimodal_loss.reporting.layouts import Column, Layout, Row
from multimodal_loss.reporting.tables import FilledCell, FilledTable, Footnotes
from multimodal_loss.results.collect import Aggregate

PICTURE_KINDS = {
    "figure_4": (
        "Figure 4: probability of the true class, per modality",
        (
            "Share of test samples by the probability that each modality alone gives to their true class; all "
            "replicates pooled, each modality sums to 100 %."
        ),
    ),
    "reliability": (
        "Reliability",
        (
            "Accuracy against confidence of each modality's own prediction and of the fused one, 15 bins, all "
            "replicates pooled. On the diagonal a model is as often right as it is sure; below it is over-confident."
        ),
    ),
    "training": (
        "Training curves",
        (
            "Training loss, light lines for single replicates and a strong one for their mean. Methods minimise "
            "different losses: compare shapes and lengths, not heights."
        ),
    ),
}


@dataclass(frozen=True)
class Section:
    """A table with everything that stands below it. `pictures` maps file names to SVG files."""

    table: FilledTable
    findings: Sequence[Findings]
    pictures: Mapping[str, bytes]


def render(
    sections: Sequence[Section], absent: Sequence[Layout], provenance: Mapping[str, Any], runs_folder: str
) -> str:
    """The page. `absent` are tables without any run, named with the command that fills them."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string(_resource("page.html.jinja"))
    quick = any(section.table.layout.profile == "quick" for section in sections)
    return template.render(
        title="Quick profile: does the chain work?" if quick else "MultiModal loss: results beside the paper's",
        quick=quick,
        style=Markup(_resource("page.css")),
        sections=[_section(section) for section in sections],
        absent=absent,
        provenance=_flat(provenance),
        runs_folder=runs_folder,
        distance_classes=[label for _, label in tables.DISTANCE_CLASSES],
    )


def _resource(name: str) -> str:
    return resources.files("multimodal_loss.reporting").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section) -> dict[str, Any]:
    table, footnotes = section.table, Footnotes()
    layout = table.layout
    return {
        "layout": layout,
        "has_paper": table.has_paper,
        "conventions": f"{tables.conventions(table)} n of n counts replicates.",
        "text": f"{table.description} {tables.summary(table)}",
        "groups": _column_groups(layout.columns),
        "rows": [_row(table, row, footnotes) for row in layout.rows],
        "footnotes": list(footnotes),
        "picture": _picture(section.pictures, f"{layout.name}_overview"),
        "conditions": [_condition(found, section.pictures) for found in section.findings],
        "commands": _commands(table),
    }


def _row(table: FilledTable, row: Row, footnotes: Footnotes) -> dict[str, Any]:
    cells = [_cell(table[row, column], column, footnotes) for column in table.layout.columns]
    return {"group": row.group, "title": row.title, "note": table.row_note(row), "cells": cells}


def _cell(cell: FilledCell | None, column: Column, footnotes: Footnotes) -> dict[str, Any]:
    if cell is None:
        return {"state": "empty"}
    values = ", ".join(tables.number(value, column.decimals, column.signed) for value in cell.values)
    paper_note = footnotes.mark(cell.paper.note) if cell.paper else ""
    return {
        "state": cell.state,
        "distance_class": cell.distance_class,
        "ours": tables.ours_text(cell, column),
        "paper": f"{tables.paper_text(cell, column)} {paper_note}".strip() if cell.paper else "",
        "difference": tables.difference_text(cell, column) if cell.difference is not None else "",
        "replicates": tables.replicates_text(cell),
        "note": footnotes.mark(cell.note),
        "values": f"replicates: {values}",
    }


def _column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Headings that span columns, with their widths; none if no column has a group."""
    return tables.column_groups(columns) if any(column.group for column in columns) else []


def _condition(found: Findings, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "title": found.condition.title,
        "pictures": [
            {"title": title, "caption": caption, "image": _picture(pictures, f"{kind}_{found.condition.key}")}
            for kind, (title, caption) in PICTURE_KINDS.items()
            if f"{kind}_{found.condition.key}" in pictures
        ],
        "calibration_columns": CALIBRATION_COLUMNS,
        "calibration": [
            {"method": line.method, "source": line.source, "values": [_mean_sd(m) for m in line.metrics.values()]}
            for line in found.calibration
        ],
        "proxy_columns": PROXY_COUNTS,
        "proxies": [
            {"method": line.method, "class": line.class_name, "values": [_mean_sd(c, 1) for c in line.counts.values()]}
            for line in found.proxies
        ],
    }


def _mean_sd(values: Aggregate, decimals: int = 3) -> str:
    return tables.mean_and_sd(values.mean, values.sd, Column("", "", decimals=decimals))


def _picture(pictures: Mapping[str, bytes], name: str) -> str:
    """A data address: as an image of its own, a picture's ids cannot clash with those of the next."""
    svg = pictures.get(name)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" if svg else ""


def _commands(table: FilledTable) -> list[str]:
    """One command per run that a cell still lacks."""
    lacking = [cell.cell for cell in table.cells.values() if cell.state != "complete"]
    overrides = dict.fromkeys(side for cell in lacking for side in (cell.overrides, cell.minus) if side)
    return [shlex.join(["python", "-m", "multimodal_loss.train", *one]) for one in overrides]


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as lines of name and value."""
    lines: list[tuple[str, str]] = []
    for name, value in provenance.items():
        title = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            lines += _flat(value, f"{title}: ")
        elif value not in (None, [], ""):
            lines.append((title, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return lines
