"""One self-contained HTML page: no network, styles and pictures inside, everything from the runs escaped."""

import base64
import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from multimodal_loss.reporting.analysis import significance
from multimodal_loss.reporting.analysis.fill import DISTANCE_CLASSES, FilledTable
from multimodal_loss.reporting.analysis.findings import Detail, Findings
from multimodal_loss.reporting.analysis.significance import Comparison
from multimodal_loss.reporting.figures.base import Picture
from multimodal_loss.reporting.formats import text
from multimodal_loss.reporting.formats.text import Footnotes
from multimodal_loss.reporting.layouts.base import Column, Layout, Row
from multimodal_loss.results.collect import Aggregate


@dataclass(frozen=True)
class Section:
    """A table with everything that stands below it: `own` pictures are drawn from its cells, those of `findings` from
    its runs. `svgs` maps the names of both to SVG files.
    """

    table: FilledTable
    findings: Sequence[Findings]
    own: Sequence[Picture]
    significance: Sequence[Comparison]
    svgs: Mapping[str, bytes]

    @property
    def verdict(self) -> str:
        """Which differences are real, in a sentence or two; empty where nothing was tested."""
        return significance.sentence(self.significance, self.table.layout.focus)


def render(
    sections: Sequence[Section], absent: Sequence[Layout], provenance: Mapping[str, Any], runs_folder: str
) -> str:
    """The page. `absent` are tables without any run, named with the command that fills them."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string(_resource("page.html.jinja"))
    every = dict.fromkeys(section.table.layout.notice for section in sections)
    notices = list(every) if all(every) else []  # a page of nothing but what is not the paper's
    return template.render(
        title="Quick profile: does the chain work?" if notices else "MultiModal loss: results beside the paper's",
        notices=notices,
        style=Markup(_resource("page.css")),
        sections=[_section(section) for section in sections],
        absent=absent,
        provenance=_flat(provenance),
        runs_folder=runs_folder,
        distance_classes=[label for _, label in DISTANCE_CLASSES],
    )


def _resource(name: str) -> str:
    return resources.files("multimodal_loss.reporting.formats").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section) -> dict[str, Any]:
    table, footnotes = section.table, Footnotes()
    layout = table.layout
    return {
        "layout": layout,
        "is_compared": table.paper_label == "paper",
        "conventions": f"{text.conventions(table)} n of n counts replicates.",
        "text": f"{table.description} {text.summary(table)}",
        "groups": _column_groups(layout.columns),
        "rows": [_row(table, row, footnotes) for row in layout.rows],
        "footnotes": list(footnotes),
        "pictures": _pictures(section.own, section.svgs),
        "verdict": section.verdict,
        "significance": [_comparison(one) for one in section.significance],
        "conditions": [_condition(found, section.svgs) for found in section.findings],
        "commands": _commands(table),
    }


def _row(table: FilledTable, row: Row, footnotes: Footnotes) -> dict[str, Any]:
    cells = [_cell(table, row, column, footnotes) for column in table.layout.columns]
    return {"group": row.group, "title": row.title, "note": row.note, "cells": cells}


def _cell(table: FilledTable, row: Row, column: Column, footnotes: Footnotes) -> dict[str, Any]:
    cell = table[row, column]
    if cell is None:
        return {"state": "empty"}
    values = ", ".join(text.number(value, column.decimals, column.signed) for value in cell.values.values())
    paper = f"{table.paper_label} {text.paper_text(cell, column, footnotes)}" if cell.paper else ""
    return {
        "state": cell.state,
        "distance_class": cell.distance_class,
        "ours": text.ours_text(cell, column),
        "paper": paper,
        "difference": text.difference_text(cell, column) if cell.difference is not None else "",
        "replicates": text.replicates_text(cell),
        "note": footnotes.mark(cell.note),
        "values": f"replicates: {values}",
    }


def _column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Headings over neighbouring columns, with how many columns each spans; none if no column has a group."""
    groups = [list(group) for _, group in itertools.groupby(columns, key=lambda column: column.group or column.key)]
    return [(group[0].group, len(group)) for group in groups] if any(column.group for column in columns) else []


def _comparison(one: Comparison) -> tuple[str, str, list[str]]:
    p_values = [f"{p:.3f}" if p >= 0.0005 else "< 0.001" for p in (one.p, one.p_holm)]
    real = "real" if one.real else ""
    difference = text.number(one.difference, 2, signed=True)
    return one.first, one.second, [difference, text.number(one.t, 2, signed=True), *p_values, real, str(one.folds)]


def _condition(found: Findings, svgs: Mapping[str, bytes]) -> dict[str, Any]:
    pictures = _pictures(found.pictures, svgs)
    details = [
        (detail, [(a, b, _numbers(detail, values)) for a, b, values in detail.lines]) for detail in found.details
    ]
    return {"title": found.condition.title, "note": found.note, "pictures": pictures, "details": details}


def _numbers(detail: Detail, values: Sequence[Aggregate]) -> list[str]:
    signed = len(values) - 1 if detail.signed else len(values)
    return [text.mean_and_sd(one.mean, one.sd, detail.decimals, i == signed) for i, one in enumerate(values)]


def _pictures(pictures: Sequence[Picture], svgs: Mapping[str, bytes]) -> list[dict[str, str]]:
    """With data addresses: as an image of its own, a picture's ids cannot clash with those of the next."""
    return [
        {
            "title": picture.title,
            "caption": picture.caption,
            "image": f"data:image/svg+xml;base64,{base64.b64encode(svgs[picture.name]).decode()}",
        }
        for picture in pictures
    ]


def _commands(table: FilledTable) -> list[str]:
    """One command per run that a cell still lacks; for runs that are there by their name, the table's."""
    lacking = [cell.cell for cell in table.cells.values() if cell.state != "complete"]
    runs = dict.fromkeys(side for cell in lacking for side in (cell.run, cell.minus) if side)
    commands = [shlex.join(["python", "-m", "multimodal_loss.train", *one]) for one in runs if not isinstance(one, str)]
    return commands or [table.layout.command] * bool(runs)


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
