"""The committed results: a folder for each table with its cells, pictures and a README, and a list of all tables.

Everything that is generated comes from the files of the folder alone. What people wrote stands between markers and is
kept.
"""

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from multimodal_loss.errors import UserError
from multimodal_loss.reporting.analysis import significance, verdict
from multimodal_loss.reporting.analysis.fill import FilledTable, with_committed
from multimodal_loss.reporting.analysis.findings import (
    CALIBRATION_COLUMNS,
    READ_OUT,
    SOFTMAX,
    committed,
    sources_csv,
    sources_of_rows,
)
from multimodal_loss.reporting.analysis.provenance import listed, machine, provenance
from multimodal_loss.reporting.analysis.significance import Comparison
from multimodal_loss.reporting.figures.base import save, stored_plate
from multimodal_loss.reporting.formats.cells_csv import cells_csv, from_csv
from multimodal_loss.reporting.formats.markdown import escape, markdown, plain_table
from multimodal_loss.reporting.formats.page import Section, html
from multimodal_loss.reporting.formats.text import DASH
from multimodal_loss.reporting.layouts.base import Layout

NOTES = ("<!-- notes:begin -->", "<!-- notes:end -->")
LOST = 0.05  # of accuracy: how much less than alone makes a modality's own prediction a lost one
ABOUT = "about"  # where the page says what is written about all tables
LIST = ("<!-- results:begin -->", "<!-- results:end -->")


def with_results(table: FilledTable, results: Path) -> FilledTable:
    """The table with what is committed of it where no run here fills a cell: a table may take several machines."""
    ((_, stored),) = _stored(results, {table.layout.name: table.layout})
    return with_committed(table, *stored) if stored else table


def files(section: Section, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what is committed of one table in `folder`, but for its README."""
    table = section.table
    incomplete = len(table.cells) - table.complete
    own = provenance(table.runs)
    # Saved again from the same runs, what was saved last, when it did not say of which, says nothing of its own.
    earlier = [one for one in table.earlier if any(one.get(key, value) != value for key, value in own.items())]
    environment = {
        "table": table.layout.name,
        "note": f"{incomplete} of {len(table.cells)} cells are not complete" if incomplete else "complete",
        **({"notices": table.notices} if table.notices else {}),
        **({"earlier": earlier} if earlier else {}),
        **own,
    }
    yield "cells.csv", cells_csv(table).encode()
    yield "environment.json", (json.dumps(environment, indent=2, sort_keys=True) + "\n").encode()
    if section.significance or (folder / "significance.csv").exists():
        yield "significance.csv", significance.to_csv(section.significance).encode()
    if table.layout.dataset and (choices := _with_earlier_choices(chosen_csv(table), folder / "chosen.csv", table)):
        yield "chosen.csv", choices.encode()
    of_conditions = [line for one in section.findings for line in one.sources]
    if sources := of_conditions if table.layout.conditions else sources_of_rows(table):
        yield "modalities.csv", _with_earlier(sources_csv(sources), folder / "modalities.csv", table).encode()
    kept = _kept_runs(table)
    elsewhere = {
        picture.name: [shown.label for shown in one.condition.shown if shown.run in kept]
        for one in section.findings
        for picture in one.pictures
    }
    for picture in section.pictures:
        # One that shows runs which are not here stays.
        if picture.png and not _shows(folder / f"{picture.png}.png", elsewhere.get(picture.name, ())):
            said = section.plates[picture.name].said
            yield f"{picture.png}.png", save(picture.figure, "png", dpi=picture.dpi, said=said)


def sections(results: Path, layouts: Mapping[str, Layout], output: Path) -> tuple[list[Section], list[Layout], Markup]:
    """What is committed of each table, for a page in `output`; the tables of which nothing is; what is written about
    all of them.

    Raises UserError for a file that cannot be read.
    """
    stored = list(_stored(results, layouts))
    if not any(one for _, one in stored):
        raise UserError(f"there are no results in {results}")
    shown = {layout.name for layout, one in stored if one}

    def link(folder: Path, href: str) -> str:
        """To the table on the page where it is there, else to the file."""
        address, _, part = href.partition("#")
        target = (folder / address).resolve() if address else folder.resolve()
        about = target.parent if target.name == "README.md" else target
        place = ABOUT if about == results.resolve() else about.name
        if "://" in address:
            return href
        if place == ABOUT or (place in shown and about.parent == results.resolve()):
            return f"#{place}-{part}" if part else f"#{place}"
        return os.path.relpath(target, output.resolve())

    def notes(folder: Path, place: str) -> Markup:
        return html(_notes(folder / "README.md"), place, partial(link, folder))

    found = []
    for layout, (table, environment) in ((layout, one) for layout, one in stored if one):
        folder = results / layout.name
        with _named(folder):
            sources = folder / "modalities.csv"
            found.append(
                Section(
                    table,
                    _significance(folder),
                    [stored_plate(path) for path in _pictures(folder)],
                    committed(layout, _sources(sources.read_text(encoding="utf-8"))) if sources.exists() else [],
                    origins=[origin(one) for one in (environment, *environment.get("earlier", []))],
                    notes=notes(folder, layout.name),
                )
            )
    return found, [layout for layout, one in stored if not one], notes(results, ABOUT)


def readmes(results: Path, layouts: Mapping[str, Layout]) -> Iterator[tuple[Path, str]]:
    """The README of each table that has results, and that of the folder: where they belong, and what they say.

    Raises UserError for a file that cannot be read.
    """
    lines = []
    for layout, stored in _stored(results, layouts):
        title, state, folder = escape(_short(layout)), "not computed yet", results / layout.name
        if stored or folder.is_dir():
            title, state = f"[{title}]({layout.name}/README.md)", _state(stored[0]) if stored else state
            with _named(folder):
                page = _page(*stored, folder) if stored else _empty_page(layout)
            yield folder / "README.md", _with_notes(page, folder / "README.md")
        lines.append([title, escape(layout.data), state, f"`{layout.command}`"])
    listed = plain_table(["Table", "Data", "State", "Command"], lines, left=4)
    text = f"# Results\n\n{listed}\n\nGenerated by `make save-results`, but for what follows.\n"
    yield results / "README.md", _with_notes(text, results / "README.md")


def with_list(readme: str, results: Path, layouts: Mapping[str, Layout], link: str) -> str:
    """A README with the list of the tables that have results between its markers; `link` is the way to the folder. A
    table that there is on several datasets ("Table 5 on tcga_brca") has one line, one that belongs to another
    ("table_7_digits" beside "table_7") none.

    Raises UserError where the markers are not both there.
    """
    before, begin, rest = readme.partition(LIST[0])
    _, end, after = rest.partition(LIST[1])
    if not end:
        raise UserError(f"the README lacks {LIST[0]} with {LIST[1]} behind it")
    lines: dict[str, tuple[list[str], list[FilledTable]]] = {}  # by title: the data, or links to them, and the tables
    found = list(_stored(results, layouts))
    titles = {layout.name: _short(layout) for layout, stored in found if stored}
    for layout, stored in found:
        if stored:
            title, place = titles[layout.name], f"({link}/{layout.name}/README.md)"
            general, on, _ = title.partition(f" on {layout.dataset}") if layout.dataset else (title, "", "")
            # Of the same table, or of one that has this one as a part?
            owners = [other for name, other in titles.items() if layout.name.startswith(f"{name}_")]
            if any(not on or not other.startswith(general) for other in owners):
                continue
            if not on:
                title, data = f"[{escape(title)}]{place}", escape(layout.data)
            else:
                title, data = escape(general), f"[{escape(layout.dataset)}]{place}"
            every, tables = lines.setdefault(title, ([], []))
            every.append(data)
            tables.append(stored[0])
    rows = [[title, ", ".join(every), _state(*tables)] for title, (every, tables) in lines.items()]
    return f"{before}{begin}\n{plain_table(['Table', 'Data', 'State'], rows, left=3)}\n{end}{after}"


def chosen_csv(table: FilledTable) -> str:
    """What tuning chose for each row and replicate, among how many trials, and its score; empty where nothing was
    tuned.
    """
    lines = []
    for row in table.layout.rows:
        runs = {cell.run.name: cell.run for (key, _), cell in table.cells.items() if key == row.key and cell.run}
        for run in runs.values():
            for number, replicate in run.replicates.items():
                if tuning := replicate.get("tuning"):
                    (best,) = [one for one in tuning["trials"] if one["values"] == tuning["chosen"]]
                    values = ", ".join(f"{key}={value}" for key, value in tuning["chosen"].items())
                    numbers = (f"{best['score']:.5f}", f"{best['accuracy']:.5f}", best["epochs"])
                    lines.append(
                        [row.key, number, values, *numbers, f"{best['temperature']:.4g}", len(tuning["trials"])]
                    )
    columns = ["row", "replicate_id", "chosen", "NLL", "ACC", "epochs", "temperature", "trials"]
    return pd.DataFrame(lines, columns=columns).to_csv(index=False, lineterminator="\n") if lines else ""


def choices(chosen: str, titles: Mapping[str, str]) -> str:
    """From chosen.csv: how often each row chose each value, and its epochs. A value at an end of what was tried, or
    epochs at their limit, say that more of it might be better.
    """
    lines = []
    for row, own in pd.read_csv(io.StringIO(chosen), keep_default_na=False).groupby("row", sort=False):
        values: dict[str, Counter[str]] = {}
        for text in own["chosen"]:
            for key, value in re.findall(r"([\w.]+)=(.*?)(?:, (?=[\w.]+=)|$)", text):
                values.setdefault(key, Counter())[value] += 1
        said = [
            f"{key.rpartition('.')[2]} {', '.join(f'{value} ({count})' for value, count in counts.most_common())}"
            for key, counts in values.items()
        ]
        low, middle, high = (f"{own['epochs'].quantile(q):g}" for q in (0, 0.5, 1))
        if said:  # what is fitted by itself chooses nothing here
            lines.append([escape(titles.get(str(row), str(row))), escape("; ".join(said)), middle, f"{low} to {high}"])
    return plain_table(["Method", "Chosen (how often)", "Epochs, median", "range"], lines, left=2)


def own_predictions(modalities: str) -> str:
    """From modalities.csv: each prediction's accuracy in percent, mean over replicates; a row a method. Of the softmax
    of a modality's scores and, behind a stroke, of what is read out of them.
    """
    frame = _sources(modalities)
    if frame["modality"].nunique() < 2:
        return ""
    several, rows = frame["condition"].nunique() > 1, []
    names = list(dict.fromkeys(frame["modality"]))
    for (condition, method), own in frame.groupby(["condition", "method"], sort=False):
        read_out = own["prediction"] == READ_OUT
        means = [part.groupby("modality")["ACC"].mean() * 100 for part in (own[~read_out], own[read_out])]
        texts = [[f"{mean[name]:.1f}" if name in mean else DASH for mean in means] for name in names]
        title = escape(f"{method} ({condition})" if several else str(method))
        rows.append([title, *(" / ".join(text).removesuffix(f" / {DASH}") for text in texts)])
    return plain_table(["Method", *map(escape, names)], rows, left=1)


def own_verdict(modalities: str) -> str:
    """From modalities.csv: whether a fusion loses a modality, or only the order of its labels; empty where no run read
    scores out beside networks of one modality.
    """
    frame = _sources(modalities)
    of_one = frame.groupby(["condition", "method"])["modality"].transform("nunique") == 1
    place = ["condition", "modality", "replicate_id"]
    alone = frame[of_one].groupby(place)["ACC"].max().rename("alone")
    pairs = frame[~of_one].pivot_table(index=["method", *place], columns="prediction", values="ACC", sort=False)
    if not {SOFTMAX, READ_OUT} <= set(pairs):
        return ""
    pairs = pairs.dropna(subset=[SOFTMAX, READ_OUT]).join(alone, on=place, how="inner")
    said = []
    for method, of_method in pairs.groupby("method", sort=False):
        before, after = (int((of_method["alone"] - of_method[kind] > LOST).sum()) for kind in (SOFTMAX, READ_OUT))
        said.append(f"{method} {before} and {after} of {len(of_method)}")
    question = "Does a fusion lose a modality, or only the order of its labels?"
    counted = (
        f"More than {LOST * 100:.0f} points below a network trained on the modality alone lie, over conditions "
        "and replicates, by the softmax of the scores and then by what is read out of them"
    )
    return f"{question} {counted}: {'; '.join(said)}. What the read-out brings back was not lost." if said else ""


def origin(environment: Mapping[str, Any]) -> str:
    """One line on the machine, the code and the time."""
    hardware, versions = environment["hardware"], environment["versions"]
    days = " to ".join(dict.fromkeys(str(environment[key])[:10] for key in ("first_started", "last_ended")))
    processors = ", ".join(listed(hardware.get("cpu")) + listed(hardware.get("gpu")))
    # Of "<sha> (with local changes)" the first ten digits of the sha.
    shortened = (re.sub(r"^(\w{10})\w*", r"\1", commit) for commit in listed(environment["git"]))
    commits = ", ".join(dict.fromkeys(shortened))
    return (
        f"Computed {days} on {processors} ({', '.join(listed(environment['device']))}), "
        f"torch {', '.join(listed(versions.get('torch')))}, commit {commits}; {environment['runs']} runs, "
        f"{environment['training_seconds'] / 3600:.1f} hours of training."
    )


def _stored(
    results: Path, layouts: Mapping[str, Layout]
) -> Iterator[tuple[Layout, tuple[FilledTable, dict[str, Any]] | None]]:
    """Each full table with its stored cells and environment, or with None."""
    for layout in (one for one in layouts.values() if one.profile == "full"):
        folder, stored = results / layout.name, None
        if (folder / "cells.csv").exists():
            with _named(folder):
                environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
                cells = (folder / "cells.csv").read_text(encoding="utf-8")
                stored = (
                    from_csv(
                        layout,
                        cells,
                        machine([environment, *environment.get("earlier", [])]),
                        environment.get("notices"),
                    ),
                    environment,
                )
        yield layout, stored


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Damaged files are an error that names their folder."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read the results in {folder}: {type(error).__name__}: {error}") from error


def _with_earlier(sources: str, path: Path, table: FilledTable) -> str:
    """The lines of modalities.csv, with those that it has of methods whose cells were kept."""
    if not table.earlier or not path.exists():
        return sources
    kept = _kept_runs(table)
    layout, new, old = table.layout, _sources(sources), _sources(path.read_text(encoding="utf-8"))
    shown = [(condition.key, one.label, one.run) for condition in layout.conditions for one in condition.shown]
    if not layout.conditions:
        titles = {row.key: row.full_title for row in layout.rows}
        shown = [(layout.name, titles[cell.row], run) for cell in layout.cells for run in cell.runs]
    wanted = {(condition, method) for condition, method, run in shown if run in kept}
    wanted -= set(zip(new["condition"], new["method"], strict=True))
    of_kept = [place in wanted for place in zip(old["condition"], old["method"], strict=True)]
    return pd.concat([old[of_kept], new]).to_csv(index=False, lineterminator="\n", float_format="%.8g")


def _with_earlier_choices(choices: str, path: Path, table: FilledTable) -> str:
    """The lines of chosen.csv, with those that it has of rows whose cells were kept."""
    if not table.earlier or not path.exists():
        return choices
    kept = {row for (row, _), cell in table.cells.items() if cell.n and not cell.run}
    old = pd.read_csv(path, dtype=str, keep_default_na=False)
    new = pd.read_csv(io.StringIO(choices), dtype=str, keep_default_na=False) if choices else old[:0]
    rows = [row.key for row in table.layout.rows]
    both = pd.concat([old[old["row"].isin(kept - set(new["row"]))], new])
    return both.sort_values("row", key=lambda row: row.map(rows.index), kind="stable").to_csv(
        index=False, lineterminator="\n"
    )


def _shows(path: Path, labels: Iterable[str]) -> bool:
    """Whether a picture that is there says numbers of any of these methods."""
    return path.exists() and any(f"{label}: " in stored_plate(path).alt for label in labels)


def _kept_runs(table: FilledTable) -> set[Any]:
    """What names the runs of cells that are committed, and not of runs here."""
    return {run for cell in table.cells.values() if cell.n and not cell.run for run in cell.cell.runs}


def _sources(text: str) -> pd.DataFrame:
    """modalities.csv: texts, but for the accuracy. Older files do not say what a prediction is made by."""
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if "prediction" not in frame:
        frame["prediction"] = ""
    numbers = list(CALIBRATION_COLUMNS)
    return frame.assign(**frame.reindex(columns=numbers).apply(pd.to_numeric, errors="coerce"))


def _state(*tables: FilledTable) -> str:
    return f"{sum(table.complete for table in tables):,} of {sum(len(table.cells) for table in tables):,} cells"


def _pictures(folder: Path) -> list[Path]:
    """A table's, the one of the whole table first."""
    return sorted(folder.glob("*.png"), key=lambda path: (path.stem != "overview", path.name))


def _page(table: FilledTable, environment: Mapping[str, Any], folder: Path) -> str:
    """The generated part of a table's README."""
    layout = table.layout
    compared = _significance(folder)
    parts = [f"# {escape(layout.title)}", *map(escape, verdict.sentences(table, compared))]
    parts += [f"`{layout.command}`", markdown(table, short=True, title=False).strip()]
    parts += [escape(origin(one)) for one in (environment, *environment.get("earlier", []))]
    for picture in _pictures(folder):
        plate = stored_plate(picture)
        parts.append(f"![{escape(plate.alt or f'{layout.title}: {plate.title}')}]({picture.name})")
    sources = folder / "modalities.csv"
    if sources.exists() and (own := own_predictions(text := sources.read_text(encoding="utf-8"))):
        said = (
            "Test accuracy in percent inside each network, mean over replicates: by the softmax of a modality's scores "
            "/ by a logistic regression from them to the classes, fitted to the training samples, where the run did "
            "so. Every one is in [modalities.csv](modalities.csv)."
        )
        parts += ["## Each modality's own prediction", *filter(None, [own_verdict(text)]), said, own]
    chosen = folder / "chosen.csv"
    if chosen.exists():
        said = "By the training samples of each split alone. Every choice is in [chosen.csv](chosen.csv)."
        titles = {row.key: row.full_title for row in layout.rows}
        parts += ["## What was chosen", said, choices(chosen.read_text(encoding="utf-8"), titles)]
    parts.append("Generated by `make save-results` from the files beside it, but for what follows.")
    return "\n\n".join(parts) + "\n"


def _empty_page(layout: Layout) -> str:
    """Of a table about which something is written, though nothing is computed."""
    return f"# {escape(layout.title)}\n\n{escape(layout.description)}\n\nNot computed yet: `{layout.command}`.\n"


def _significance(folder: Path) -> list[Comparison]:
    path = folder / "significance.csv"
    return significance.from_csv(path.read_text(encoding="utf-8")) if path.exists() else []


def _notes(path: Path) -> str:
    """What people wrote in a README, between its markers; empty where there is none."""
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    _, begin, rest = present.partition(NOTES[0])
    notes, end, _ = rest.partition(NOTES[1])
    if begin and not end:
        raise UserError(f"{path} has {NOTES[0]} without {NOTES[1]} behind it")
    return notes


def _with_notes(generated: str, path: Path) -> str:
    """The text with the notes that the file has already; empty ones for a new file."""
    notes = _notes(path)
    return f"{generated}\n{NOTES[0]}{notes or chr(10)}{NOTES[1]}\n"


def _short(layout: Layout) -> str:
    """The title without the data, which stand beside it."""
    return layout.title.partition(", not the paper's data")[0].removesuffix(f", {layout.data}")
