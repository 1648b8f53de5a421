"""Tables, figures and one page from stored runs: `python -m multimodal_loss.report`. Reads results, never trains.

Exit codes: 0 written (also when every cell is still missing), 1 the output cannot be written, 2 bad arguments.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from multimodal_loss.command import run_command
from multimodal_loss.errors import UserError, say
from multimodal_loss.files import write_atomically
from multimodal_loss.reporting.analysis import significance
from multimodal_loss.reporting.analysis.fill import FilledTable, Plan, Runs, fill
from multimodal_loss.reporting.analysis.findings import findings
from multimodal_loss.reporting.analysis.provenance import provenance
from multimodal_loss.reporting.figures.base import Plate, save
from multimodal_loss.reporting.formats import saved
from multimodal_loss.reporting.formats.cells_csv import cells_csv
from multimodal_loss.reporting.formats.latex import latex
from multimodal_loss.reporting.formats.markdown import markdown
from multimodal_loss.reporting.formats.page import Section, render
from multimodal_loss.reporting.formats.terminal import default_console, print_table
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.base import Layout
from multimodal_loss.reporting.layouts.own import own_layouts
from multimodal_loss.results.collect import Run, read_runs


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _parse(arguments)
    if options.from_results:
        print(page_of_results(options.from_results, options.output))
        return 0
    print(report(options.runs, options.output, options.tables, options.save_results, readme=options.readme))
    return 0


def report(
    runs_folder: Path,
    output: Path | None = None,
    names: Sequence[str] = (),
    save_results: Path | None = None,
    plan: Plan | None = None,
    console: Console | None = None,
    readme: Path | None = None,
) -> Path:
    """Writes everything and returns the page's path.

    Without `names`: every full table of which at least one run has been started, and tables of the runs that none of
    these uses; if there is none, the first table, all missing. The quick profile has a page of its own, in `quick/`
    below the usual folder, and is never saved as a result.
    """
    layouts = all_layouts()
    quick = [name for name in names if layouts[name].profile == "quick"]
    if quick and (len(names) > 1 or save_results):
        raise UserError(f"the quick profile is reported alone and never saved as a result: --tables {quick[0]}")
    output = output or Path("outputs/report/quick" if quick else "outputs/report")
    from multimodal_loss.configuration import planned_run  # only here: Hydra takes a while to import

    runs, console = Runs(read_runs(runs_folder), plan or planned_run), console or default_console()

    tables, absent = [fill(layouts[name], runs) for name in names], list[Layout]()
    if not names:
        tables, absent = _started([layout for layout in layouts.values() if layout.profile == "full"], runs)
        used = {run.name for table in tables for run in table.runs}
        tables += [fill(layout, runs) for layout in own_layouts(runs.all, used)]
    if not tables:
        tables, absent = [fill(absent[0], Runs([], runs.plan))], absent[1:]

    if save_results:
        tables = [saved.with_results(t, save_results) if t.layout.name in layouts else t for t in tables]
    sections = [_section(table, runs, output) for table in tables]
    every = {run.name: run for table in tables for run in table.runs}
    page = output / "index.html"
    # A table on other data than the paper's is an offer that the paper's own table makes.
    offered = [layout for layout in absent if layout.offered and not layout.reference]
    write(page, render(sections, offered, provenance(list(every.values())), f"the runs in {runs_folder}").encode())
    if save_results:
        _save_results(save_results, sections, layouts)
    if readme:
        results = save_results or Path("outputs/results")
        link = os.path.relpath(results, readme.parent)
        write(readme, saved.with_list(readme.read_text(encoding="utf-8"), results, layouts, link).encode())
    for run in runs.all:
        if run.state == "unreadable":
            say(f"warning: {runs_folder / run.name} is left out: {run.reason}")
    for section in sections:  # last: whoever reads this may stop reading
        print_table(console, section.table, " ".join(section.verdicts))
    return page


def write(path: Path, content: bytes) -> None:
    """All of it or nothing; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def _started(layouts: Sequence[Layout], runs: Runs) -> tuple[list[FilledTable], list[Layout]]:
    """The tables that a run has been started for, and the layouts of the others.

    A table that shares runs with an earlier one is started by a run of its own, or, where all that it wants are that
    one's (unless it is its variant), by any.
    """
    tables: list[FilledTable] = []
    absent = []
    for layout in layouts:
        table = fill(layout, runs) if _could_fill(layout, runs.all) else None
        found = {run.name for run in table.runs} if table else set()
        shown = {run.name for other in tables for run in other.runs}
        if table and found and (found - shown or (layout.offered and any(_is_part(table, one) for one in tables))):
            tables.append(table)
        else:
            absent.append(layout)
    return tables, absent


def _is_part(table: FilledTable, other: FilledTable) -> bool:
    """Whether it wants no run that the other one does not."""
    wanted, others = ({cell.wanted for cell in one.cells.values()} for one in (table, other))
    return wanted <= others


def _could_fill(layout: Layout, runs: Sequence[Run]) -> bool:
    """Whether any run may belong to the layout, by its dataset and experiment as far as it says so; spares composing
    many cells. A run of no experiment does not begin a table, though it fills its place in one.
    """
    overrides = {one for cell in layout.cells for run in cell.runs for one in run}

    def may_be(run: Run) -> bool:
        dataset, stated = run.get("config/facts/dataset/name"), "experiment" in run.result
        of_experiment = not stated or f"experiment={run.get('experiment')}" in overrides
        return of_experiment and (not layout.dataset or dataset in (None, layout.dataset))

    return any(map(may_be, runs))


def _section(table: FilledTable, runs: Runs, output: Path) -> Section:
    """Writes a table's files and keeps what the page shows."""
    layout = table.layout
    _write_texts(table, output)
    found = [one for condition in layout.conditions if (one := findings(condition, layout, runs))]
    own = [picture for draw in layout.pictures for picture in draw(table)]
    pictures, plates = [*own, *(picture for one in found for picture in one.pictures)], {}
    for picture in pictures:
        content = save(picture.figure, "svg")
        plates[picture.name] = Plate(picture.title, picture.caption, picture.alt or picture.caption, content)
        write(output / "figures" / f"{picture.name}.svg", content)
    compared, own_plates = significance.compare(table), [plates[picture.name] for picture in own]
    return Section(table, compared, own_plates, found, plates, pictures)


def _write_texts(table: FilledTable, output: Path) -> None:
    for ending, make in (("md", markdown), ("tex", latex), ("csv", cells_csv)):
        write(output / f"{table.layout.name}.{ending}", make(table).encode())


def page_of_results(results: Path, output: Path | None = None) -> Path:
    """The page of what is committed, without any run, and its path."""
    output = output or Path("outputs/page")
    sections, absent, notes = saved.sections(results, all_layouts(), output)
    for section in sections:
        _write_texts(section.table, output)
    write(output / "index.html", render(sections, absent, {}, f"the results in {results}", notes).encode())
    return output / "index.html"


def _save_results(folder: Path, sections: Sequence[Section], layouts: dict[str, Layout]) -> None:
    """The small files that are committed: of the tables that have values of runs here, and every README anew."""
    for section in sections:
        if section.table.has_values and section.table.runs and section.table.layout.name in layouts:
            place = folder / section.table.layout.name
            for name, content in saved.files(section, place):
                write(place / name, content)
    for path, text in saved.readmes(folder, layouts):
        write(path, text.encode())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python -m multimodal_loss.report --help lists the options)")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m multimodal_loss.report", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    layouts = all_layouts()
    add = parser.add_argument
    add("--runs", type=_folder, default=Path("outputs/runs"), help="run directories (default: %(default)s)")
    add("--output", type=_folder, help="where to write (default: outputs/report, or its quick/)")
    add("--tables", nargs="+", choices=layouts, default=(), metavar="TABLE", help=", ".join(layouts))
    add("--from-results", type=_folder, metavar="DIR", help="instead the page of what is committed there, without runs")
    add("--save-results", type=_folder, metavar="DIR", help="also write the small files that are committed")
    add("--readme", type=Path, metavar="FILE", help="also write the list of results into this README")
    options = parser.parse_args(arguments)
    if options.from_results and (options.tables or options.save_results or options.readme):
        parser.error("--from-results goes with --output alone: the page is of all that is committed")
    return options


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


if __name__ == "__main__":
    sys.exit(main())
