"""Tables, figures and one page from stored runs: `python -m multimodal_loss.report`. Reads results, never trains.

Exit codes: 0 written (also when every cell is still missing), 1 the output cannot be written, 2 bad arguments.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from multimodal_loss.errors import UserError
from multimodal_loss.reporting import figures, significance, tables
from multimodal_loss.reporting.conditions import SourceLine, findings, per_replicate, sources_csv
from multimodal_loss.reporting.layout import Column, Layout
from multimodal_loss.reporting.layouts import LAYOUTS
from multimodal_loss.reporting.layouts_own import RUN, own_layouts
from multimodal_loss.reporting.page import Section, render
from multimodal_loss.reporting.provenance import provenance
from multimodal_loss.reporting.tables import FilledTable, RunName
from multimodal_loss.results.collect import Run, read_runs
from multimodal_loss.results.run_directory import WriteError, write_atomically

OVERVIEW_CAPTION = "The table as a picture: ours with every replicate as a light dot"
FIGURE_5_CAPTION = "Mean over folds, the sample standard deviation shaded, every fold a light dot."
DISTANCE_COLOURS = ("green", "cyan", "yellow", "red")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = _parse(arguments)
        page = report(options.runs, options.output, options.tables, options.save_results)
    except (WriteError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


def report(
    runs_folder: Path,
    output: Path | None = None,
    names: Sequence[str] = (),
    save_results: Path | None = None,
    run_name: RunName | None = None,
    console: Console | None = None,
) -> Path:
    """Writes everything and returns the page's path.

    Without `names`: every full table of which at least one run has been started, and tables of a person's own data; if
    there is none, Table 1, all missing. The quick profile
    has a page of its own, in `quick/` below the usual folder, and is never saved as a result.
    """
    quick = [name for name in names if LAYOUTS[name].profile == "quick"]
    if quick and (len(names) > 1 or save_results):
        raise UserError(f"the quick profile is reported alone and never saved as a result: --tables {quick[0]}")
    output = output or Path("outputs/report/quick" if quick else "outputs/report")
    runs, run_name, console = read_runs(runs_folder), cached(run_name or _run_name), console or _console()

    wanted = [layout for layout in LAYOUTS.values() if (layout.name in names if names else layout.profile == "full")]
    wanted += [] if names else own_layouts(runs)
    filled = [tables.fill(layout, runs if _could_fill(layout, runs) else {}, run_name) for layout in wanted]
    shown = [table for table in filled if names or _is_started(table)] or filled[:1]
    # A table on other data than the paper's is an offer that the paper's own table makes.
    absent = [table.layout for table in filled if table not in shown and not table.layout.reference]

    sections = [_section(table, runs, run_name, output) for table in shown]
    used = {run.name: run for table in shown for run in table.runs}
    page = output / "index.html"
    write(page, render(sections, absent, provenance(list(used.values())), str(runs_folder)).encode())
    for section in sections:
        _print(console, section)
        if save_results and section.table.has_values and section.table.layout.name in LAYOUTS:
            _save_results(save_results / section.table.layout.name, section)
    return page


def _could_fill(layout: Layout, runs: Mapping[str, Run]) -> bool:
    """Whether any run may be of the layout's dataset; one without a result may be. Spares naming hundreds of runs."""
    names = {run.get("config/dataset/name") for run in runs.values()}
    return not layout.dataset or not names.isdisjoint({None, layout.dataset})


def _is_started(table: FilledTable) -> bool:
    return len(table.runs) > table.layout.shared_runs


def write(path: Path, content: bytes) -> None:
    """All of it or nothing; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def cached(run_name: RunName) -> RunName:
    """Composing a configuration takes a tenth of a second, and several cells name the same one.

    A cell of a person's own table names its run.
    """
    remembered = cache(run_name)

    def name(overrides: Sequence[str]) -> str:
        first = overrides[0] if overrides else ""
        return first.removeprefix(RUN) if first.startswith(RUN) else remembered(tuple(overrides))

    return name


def _run_name(overrides: Sequence[str]) -> str:
    from multimodal_loss.configuration import run_name  # only here: Hydra takes a while to import

    return run_name(overrides)


def _section(table: FilledTable, runs: Mapping[str, Run], run_name: RunName, output: Path) -> Section:
    """Writes a table's files and keeps what the page shows."""
    name = table.layout.name
    write(output / f"{name}.md", tables.markdown(table).encode())
    write(output / f"{name}.tex", tables.latex(table).encode())
    write(output / f"{name}.csv", tables.long_csv(table).encode())
    every = [findings(condition, table.layout, runs, run_name) for condition in table.layout.conditions]
    found = [one for one in every if one]
    own = list(_pictures(table))
    svgs = {}
    for picture in [*own, *(picture for one in found for picture in one.pictures)]:
        svgs[picture.name] = figures.save(picture.figure, "svg")
        write(output / "figures" / f"{picture.name}.svg", svgs[picture.name])
    return Section(table, found, own, significance.compare(table), svgs)


def _pictures(table: FilledTable) -> Iterator[figures.Picture]:
    """What is drawn from a table's cells alone."""
    name = table.layout.name
    if not table.has_values:
        return
    if table.layout.kind == "figure_5":
        figure = figures.proxy_number_figure(table)
        yield figures.Picture(name, "Figure 5", FIGURE_5_CAPTION, figure, png="figure_5", dpi=120)
    elif table.has_paper or table.has_reference:
        caption = OVERVIEW_CAPTION + (", beside the paper's mean and standard deviation." if table.has_paper else ".")
        figure = figures.comparison_figure(table)
        yield figures.Picture(f"{name}_overview", "Overview", caption, figure, png="overview", dpi=120)


def _save_results(folder: Path, section: Section) -> None:
    """The small files that are committed: cells, where they come from, what they are judged by, and pictures."""
    table = section.table
    incomplete = sum(cell.state != "complete" for cell in table.cells.values())
    environment = {
        "table": table.layout.name,
        "note": f"{incomplete} of {len(table.cells)} cells are not complete" if incomplete else "complete",
        "data_seeds": table.data_seeds,
        **provenance(table.runs),
    }
    write(folder / "cells.csv", tables.long_csv(table).encode())
    write(folder / "environment.json", (json.dumps(environment, indent=2, sort_keys=True) + "\n").encode())
    if section.significance:
        write(folder / "significance.csv", significance.to_csv(section.significance).encode())
    sources = [line for found in section.findings for line in found.sources] or _sources_of_rows(table)
    if sources:
        write(folder / "modalities.csv", sources_csv(sources).encode())
    if table.layout.kind == "figure_5":
        write(folder / "figure_5.csv", tables.wide_csv(table).encode())
    for picture in [*section.own, *(picture for found in section.findings for picture in found.pictures)]:
        if picture.png:
            write(folder / f"{picture.png}.png", figures.save(picture.figure, "png", dpi=picture.dpi))


def _sources_of_rows(table: FilledTable) -> list[SourceLine]:
    """The same for a table of variants, which has no condition of its own: where a row is one run, that run's."""
    lines: list[SourceLine] = []
    for row in table.layout.rows if table.layout.kind != "appendix_c" else ():
        cells = [cell for column in table.layout.columns if (cell := table[row, column])]
        run = cells[0].run if len({cell.cell.overrides for cell in cells}) == 1 else None
        if run and run.state == "done":
            lines += per_replicate(table.layout.name, row.full_title, run)
    return lines


def _console() -> Console:
    """As wide as the terminal; in a log wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=110)


def _print(console: Console, section: Section) -> None:
    """The table on the screen, its long side downwards so that it fits."""
    table, footnotes = section.table, tables.Footnotes()
    layout, columns = table.layout, [column for column in table.layout.columns if column.drawn]
    sideways = len(columns) > len(layout.rows)
    screen = RichTable(
        title=Text(layout.title), caption=Text(tables.summary(table)), show_lines=True, title_justify="left"
    )
    screen.add_column(Text("" if sideways else layout.corner))
    for heading in [table.row_title(row) for row in layout.rows] if sideways else [c.full_title for c in columns]:
        screen.add_column(Text(heading), justify="right")
    grid = [[_screen_cell(table[row, c], c, footnotes) for c in columns] for row in layout.rows]
    if sideways:
        for column, line in zip(columns, zip(*grid, strict=True), strict=True):
            screen.add_row(Text(column.full_title), *line)
    else:
        for row, cells in zip(layout.rows, grid, strict=True):
            screen.add_row(Text(table.row_title(row)), *cells)
    console.print(screen)
    for number, note in footnotes:
        console.print(Text(f"[{number}] {note}"))
    console.print(Text(tables.conventions(table)))
    if section.verdict:
        console.print(Text(section.verdict))
    if any(cell.state != "complete" for cell in table.cells.values()):
        console.print(Text(f"To fill what is missing: {layout.command}"))
    console.print()


def _screen_cell(cell: tables.FilledCell | None, column: Column, footnotes: tables.Footnotes) -> Text:
    if cell is None:
        return Text()
    colour = "" if cell.distance_class is None else DISTANCE_COLOURS[cell.distance_class]
    text = Text(tables.ours_text(cell, column), style="bold" if cell.n else "dim")
    if cell.published:
        label = "paper" if cell.paper else "reference"
        text.append(f"\n{label} {tables.paper_text(cell, column)}", style="not bold dim")
    if cell.difference is not None:
        text.append(f"\n{tables.difference_text(cell, column)}", style=f"not bold {colour}")
    note = footnotes.mark(cell.note)
    text.append(f"\n{tables.replicates_text(cell)}{' ' if note else ''}{note}", style="not bold")
    return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python -m multimodal_loss.report --help lists the options)")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m multimodal_loss.report", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--runs", type=_folder, default=Path("outputs/runs"), help="run directories (default: %(default)s)"
    )
    parser.add_argument("--output", type=_folder, help="where to write (default: outputs/report, or its quick/)")
    parser.add_argument("--tables", nargs="+", choices=LAYOUTS, default=(), metavar="TABLE", help=", ".join(LAYOUTS))
    parser.add_argument(
        "--save-results", type=_folder, metavar="DIR", help="also write the small files that are committed"
    )
    return parser.parse_args(arguments)


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


if __name__ == "__main__":
    sys.exit(main())
