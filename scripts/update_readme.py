"""Writes the README's result tables from outputs/results/, so that no number in it is typed.

    python scripts/update_readme.py            fill every block between <!-- NAME:begin --> and <!-- NAME:end -->
    python scripts/update_readme.py --check    change nothing; exit 1 if the README is not what this would write

NAME is a table of the report (table_1, appendix_b, ...), its numbers are in outputs/results/NAME/cells.csv; or
own_predictions, each modality's own accuracy inside the networks of Tables 5 and 6 and Figure 5, from modalities.csv.
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from multimodal_loss.reporting.provenance import machine

from multimodal_loss.reporting import significance, tables
from multimodal_loss.reporting.layouts import LAYOUTS
from multimodal_loss.results.run_directory import write_atomically

PICTURES = {
    "figure_5.png": "Accuracy and time against proxies per class",
    "appendix_c_outputs.png": "Outputs and proxies in the plane",
    "appendix_c_subgroups.png": "Subgroups of one class",
    "appendix_c_variants.png": "Outputs and proxies of each variant in the plane",
}
OWN_PREDICTIONS = "own_predictions"
DATASETS = {"tcga_subtypes": "11 types", "tcga_brca": "breast", "tcga_kipan": "kidney"}
MODALITIES = ("GE", "DM", "fused")
# Title of a row, the table that has it, and its name there.
INSIDE = (
    ("Each modality trained alone", "table_5", "MOMA {} alone"),
    ("Multitask, ensemble", "table_5", "Multitask and ensemble"),
    *((method, "table_5", method) for method in ("SUM + CE", "Mulmix", "NN + CE", "SoftTriple", "ProxyAnchor")),
    ("MultiModal, 20 proxies per class", "table_5", "MultiModal"),
    *((f"MultiModal, {count} proxies per class", "figure_5", str(count)) for count in (10, 5, 2)),
    ("MultiModal, 1 proxy per class", "figure_5", "1"),
    ("MultiModal, 20, normalised over proxies", "table_6", "Normalised over proxies, as written"),
    ("the same, times K", "table_6", "Normalised over proxies, times K (control)"),
)
ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "results")
    options = parser.parse_args(arguments)
    try:
        present = options.readme.read_text(encoding="utf-8")
        wanted = updated(present, options.results)
    except (OSError, ValueError, KeyError) as error:
        print(f"update_readme: {error}", file=sys.stderr)
        return 2
    if wanted == present:
        return 0
    if options.check:
        print(f"{options.readme} does not show {options.results}: run python scripts/update_readme.py", file=sys.stderr)
        return 1
    write_atomically(options.readme, lambda file: file.write(wanted.encode()))
    print(f"updated {options.readme}")
    return 0


def updated(readme: str, results: Path) -> str:
    """The README with the block of each known table filled. ValueError for a block that does not end."""
    for name in (*LAYOUTS, OWN_PREDICTIONS):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found, rest = readme.partition(begin)
        _, closed, after = rest.partition(end)
        if found and not closed:
            raise ValueError(f"the README has {begin} without {end} behind it")
        if found:
            filling = own_predictions(results) if name == OWN_PREDICTIONS else content(name, results / name)
            readme = f"{before}{begin}\n{filling}\n{end}{after}"
    return readme


def content(name: str, folder: Path) -> str:
    """A table's block: the table and where it comes from, or the command that computes it."""
    layout = LAYOUTS[name]
    if not (folder / "cells.csv").exists():
        return f"*Not computed yet: `{layout.command}`.*"
    cells = (folder / "cells.csv").read_text(encoding="utf-8")
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    table = tables.from_csv(layout, cells, environment["data_seeds"], machine([environment]))
    parts = [tables.markdown(table, short=True)]
    if (folder / "significance.csv").exists():
        compared = significance.from_csv((folder / "significance.csv").read_text(encoding="utf-8"))
        parts.append(f"{significance.sentence(compared)}\n")
    for picture, text in PICTURES.items():
        if (folder / picture).exists():
            parts.append(f"![{text}](outputs/results/{name}/{picture})\n")
    return "\n".join([*parts, origin(environment)])


def own_predictions(results: Path) -> str:
    """Accuracy in percent, mean over folds, of GE, DM and their fusion inside each network; one row a method."""
    header = [f"{title} {modality}" for title in DATASETS.values() for modality in MODALITIES]
    rows = [["Method", *header], ["---", *("---:" for _ in header)]]
    names = {f"{table}_{dataset}" for _, table, _ in INSIDE for dataset in DATASETS}
    inside = {name: accuracies(results / name / "modalities.csv") for name in names}
    for title, table, method in INSIDE:
        texts = [title]
        for dataset in DATASETS:
            for modality in MODALITIES:
                values = inside[f"{table}_{dataset}"].get((method.format(modality), modality))
                if modality == "fused" and "{}" in method:
                    texts.append("\N{EN DASH}")  # trained alone: nothing is fused
                else:
                    texts.append(f"{100 * statistics.fmean(values):.1f}" if values else "missing")
        rows.append(texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def accuracies(path: Path) -> dict[tuple[str, str], list[float]]:
    """Method and modality to the accuracy of each replicate; empty where the file does not exist."""
    found: dict[tuple[str, str], list[float]] = {}
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                found.setdefault((line["method"], line["modality"]), []).append(float(line["ACC"]))
    return found


def origin(environment: dict[str, Any]) -> str:
    """One line on the machine, the code and the time."""

    def joined(*values: Any) -> str:
        every = [one for value in values for one in (value if isinstance(value, list) else [value])]
        return ", ".join(str(one) for one in every if one is not None)

    hours = environment["training_seconds"] / 3600
    days = " to ".join(dict.fromkeys(str(environment[key])[:10] for key in ("first_started", "last_ended")))
    processors = joined(*(environment["hardware"].get(kind) for kind in ("cpu", "gpu")))
    commits = environment["git"] if isinstance(environment["git"], list) else [environment["git"]]
    shas = ", ".join(dict.fromkeys(str(commit)[:10] for commit in commits))
    return (
        f"Computed {days} on {processors} ({joined(environment['device'])}), "
        f"torch {joined(environment['versions'].get('torch'))}, commit {shas}; {environment['runs']} runs, "
        f"{hours:.1f} hours of training. Generated by `make save-results`."
    )


if __name__ == "__main__":
    sys.exit(main())
