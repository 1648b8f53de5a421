"""One self-contained HTML page: no network, styles and pictures inside, everything from the runs escaped."""

import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from multimodal_loss.reporting.analysis import verdict
from multimodal_loss.reporting.analysis.fill import DISTANCE_CLASSES, FilledTable
from multimodal_loss.reporting.analysis.findings import Detail, Findings
from multimodal_loss.reporting.analysis.significance import Comparison
from multimodal_loss.reporting.figures.base import Picture, Plate
from multimodal_loss.reporting.formats import text
from multimodal_loss.reporting.layouts.base import Column, Layout, Row


@dataclass(frozen=True)
class Section:
    """A table with everything that stands below it: the plates `own` are of its cells, those of `findings` of its runs,
    by the names of their pictures. `origins`: where committed cells come from; `notes`: what people wrote about them.
    """

    table: FilledTable
    significance: Sequence[Comparison]
    own: Sequence[Plate] = ()
    findings: Sequence[Findings] = ()
    plates: Mapping[str, Plate] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    origins: Sequence[str] = ()
    notes: Markup | None = None

    @property
    def verdicts(self) -> list[str]:
        return verdict.sentences(self.table, self.significance)


def render(
    sections: Sequence[Section],
    absent: Sequence[Layout],
    provenance: Mapping[str, Any],
    source: str,
    notes: Markup | None = None,
) -> str:
    """The page of what comes from `source`, in words. `absent` are tables of which nothing has been computed, named
    with the command that fills them; `notes` are about all tables.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    every = dict.fromkeys(section.table.layout.notice for section in sections)
    notices = list(every) if all(every) else []  # a page of nothing but what is not the paper's
    return environment.from_string(_resource("page.html.jinja")).render(
        title="Quick profile: does the chain work?" if notices else "MultiModal loss: results beside the paper's",
        notices=notices,
        style=Markup(_resource("page.css")),
        sections=sections,
        absent=absent,
        provenance=_flat(provenance),
        source=source,
        notes=notes,
        distance_classes=[label for _, label in DISTANCE_CLASSES],
        text=text,
        column_groups=_column_groups,
        row_groups=_row_groups,
        comparisons=lambda found: list(map(_comparison, found)),
        lines_of=_lines_of,
        commands_of=_commands,
    )


def html(markdown: str, place: str, link: Callable[[str], str]) -> Markup:
    """What people wrote, in Markdown, as HTML: headings a step lower with ids that begin with `place`, links by `link`.
    HTML in it stays text.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for number, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
        if token.type == "heading_open":
            token.attrSet("id", f"{place}-{anchor(tokens[number + 1].content)}")
        for child in token.children or []:
            if child.type == "link_open":
                child.attrSet("href", link(str(child.attrGet("href"))))
    written = parser.renderer.render(tokens, parser.options, {})
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="Table in the notes, {place}"><table>'
    written = written.replace("<table>", region).replace("</table>", "</table></div>")
    return Markup(written.replace("<th", '<th scope="col"').replace('<th scope="col"ead', "<thead"))


def anchor(heading: str) -> str:
    """How a heading is called in links, as on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _resource(name: str) -> str:
    return resources.files("multimodal_loss.reporting.formats").joinpath(name).read_text(encoding="utf-8")


def _column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Headings over neighbouring columns, with how many columns each spans; none if no column has a group."""
    groups = [list(group) for _, group in itertools.groupby(columns, key=lambda column: column.group or column.key)]
    return [(group[0].group, len(group)) for group in groups] if any(column.group for column in columns) else []


def _row_groups(lines: Sequence[tuple[Row, Any, str]]) -> list[tuple[str, list[tuple[Row, Any, str]]]]:
    """Neighbouring rows of the same group under its heading."""
    return [(group, list(found)) for group, found in itertools.groupby(lines, key=lambda line: line[0].group)]


def _comparison(one: Comparison) -> tuple[str, str, list[str]]:
    p_values = [f"{p:.3f}" if p >= 0.0005 else "< 0.001" for p in (one.p, one.p_holm)]
    difference, t = (text.number(value, 2, signed=True) for value in (one.difference, one.t))
    second = f"{one.second} ({one.column})" if one.column else one.second
    return one.first, second, [difference, t, *p_values, "significant" if one.significant else "", str(one.folds)]


def _lines_of(detail: Detail) -> list[tuple[str, str, list[str]]]:
    signed = len(detail.columns) - 3 if detail.signed else -1  # behind the two columns of text
    return [
        (a, b, [text.mean_and_sd(one.mean, one.sd, detail.decimals, i == signed) for i, one in enumerate(values)])
        for a, b, values in detail.lines
    ]


def _commands(table: FilledTable) -> list[str]:
    """One command per run that a cell still lacks; for runs that are there by their name, the table's."""
    done = {run.hash for run in table.runs if run.state == "done"}
    lacking = [cell for cell in table.cells.values() if cell.state != "complete" and cell.cell.runs]
    wanted = [pair for cell in lacking for pair in itertools.zip_longest(cell.cell.runs, cell.wanted.split("+"))]
    runs = dict.fromkeys(which for which, its_hash in wanted if its_hash not in done)
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
