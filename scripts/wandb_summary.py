"""Log the stored tables to Weights & Biases: one W&B run per experiment (job type `summary`) with a table of its cells.

    python scripts/wandb_summary.py                        # every outputs/results/<table>/cells.csv, offline
    python scripts/wandb_summary.py table_1 --mode online

`python -m multimodal_loss.report --save-results outputs/results` writes the cells. Exit codes: 0 logged, 1 W&B failed,
2 bad arguments or files.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd

from multimodal_loss.errors import UserError, one_line
from multimodal_loss.reporting.formats.cells_csv import CSV_FIELDS
from multimodal_loss.trackers import check_wandb

TEXT_COLUMNS = ("table", "row", "column", "metric", "state", "note", "values", "replicates", "run")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = _parse(arguments)
        check_wandb()
        tables = {name: read_cells(options.results / name / "cells.csv") for name in _names(options)}
        for name, cells in tables.items():
            print(f"{name}: {len(cells)} cells, {log_table(name, cells, options)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # whatever wandb raises: no login, no network, disk full
        print(f"error: W&B failed: {one_line(f'{type(error).__name__}: {error}')}", file=sys.stderr)
        return 1
    return 0


def read_cells(path: Path) -> pd.DataFrame:
    """The cells of one table. Raises UserError for a file that is missing or not the report's."""
    try:
        cells = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {path} ({reason}); python -m multimodal_loss.report --save-results writes it"
        ) from error
    missing = [column for column in CSV_FIELDS if column not in cells]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    return cells


def log_table(name: str, cells: pd.DataFrame, options: argparse.Namespace) -> str:
    """One finished W&B run; returns where it is."""
    import wandb

    from multimodal_loss.trackers.wandb_tracker import start_run, whereabouts

    folder = options.dir.absolute()
    labels = {"name": f"{name} summary", "group": name, "job_type": "summary"}
    config = {"table": name, "cells": len(cells)}
    with start_run(options.mode, folder, options.project, options.entity, config=config, **labels) as run:
        run.log({"cells": wandb.Table(dataframe=cells.astype(object).where(cells.notna(), None))})
        run.summary["complete_cells"] = int((cells["state"] == "complete").sum())
        return whereabouts(run, folder)


def _names(options: argparse.Namespace) -> list[str]:
    names = options.tables or sorted(path.parent.name for path in options.results.glob("*/cells.csv"))
    if not names:
        raise UserError(f"no table in {options.results}; python -m multimodal_loss.report --save-results writes them")
    return list(names)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    # The names are folders of --results, so what is wrong with one shows when it is read.
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="such as table_1 (default: all that are stored)")
    parser.add_argument("--results", type=Path, default=Path("outputs/results"), help="default: %(default)s")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="default: %(default)s")
    parser.add_argument("--project", default="multimodal-loss", help="default: %(default)s")
    parser.add_argument("--entity", help="default: the account's own")
    parser.add_argument(
        "--dir", type=Path, default=Path("outputs"), help="W&B's files go to DIR/wandb (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
