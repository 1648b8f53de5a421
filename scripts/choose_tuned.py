"""Chooses learning rate and modules per fusion from the runs of `experiment=tune_table_5` and writes them down.

    python scripts/choose_tuned.py --dataset tcga_subtypes [--folds 0] [--modules 32] [--runs outputs/runs]

Writes conf/tuned/<dataset>.yaml, which conf/dataset/<dataset>.yaml includes, and all scores to
outputs/results/tuning/<dataset>.csv. The score of a grid point is the mean accuracy on the inner held-out parts; of
equals the smaller rate wins, then the fewer modules. With several folds the values are {per_fold: [...]}.
Exit code 1 if a run of the grid is missing or has failed.
"""

import argparse
import csv
import io
import itertools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from multimodal_loss.configuration import CONFIG_DIR, fusion_of, planned_run
from multimodal_loss.errors import UserError
from multimodal_loss.files import write_atomically
from multimodal_loss.results.collect import Run, read_run
from multimodal_loss.results.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
METRIC = "validation/fused/ACC"


class Score(NamedTuple):
    fusion: str
    fold: int
    lr: float
    modules: int
    mean: float
    values: tuple[float, ...]  # one for each inner fold (and, for unimodal networks, modality)
    capped: int  # how many of them the step cap stopped


class Grid(NamedTuple):
    """What conf/experiment/tune_table_5.yaml sweeps: the one place where the grid is written.

    `methods` by fusion, the name that the values are kept under: unimodal networks of both modalities share theirs.
    """

    methods: dict[str, list[str]]
    inner_folds: tuple[str, ...]
    rates: tuple[str, ...]
    modules: tuple[str, ...]

    @classmethod
    def read(cls, modules: list[str] | None = None) -> "Grid":
        swept = OmegaConf.load(CONFIG_DIR / "experiment" / "tune_table_5.yaml").hydra.sweeper.params

        def listed(key: str) -> tuple[str, ...]:
            return tuple(str(swept[key]).split(","))

        methods: dict[str, list[str]] = {}
        for method in listed("method"):
            methods.setdefault(fusion_of(method), []).append(method)
        chosen = tuple(modules) if modules else listed("backbone.modules")
        return cls(methods, listed("dataset.inner_fold"), listed("optimizer.lr"), chosen)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0], help="the outer folds that were tuned")
    parser.add_argument("--modules", nargs="+", help="the part of the grid that was run, if not all of it")
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"))
    parser.add_argument("--tuned", type=Path, default=CONFIG_DIR / "tuned")
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "results" / "tuning")
    options = parser.parse_args(arguments)
    try:
        scores = read_scores(Grid.read(options.modules), options.dataset, options.folds, options.runs)
    except UserError as error:
        print(f"choose_tuned: {error}", file=sys.stderr)
        return 1
    write(options.tuned / f"{options.dataset}.yaml", tuned_yaml(scores, options.dataset))
    write(options.results / f"{options.dataset}.csv", scores_csv(scores))
    return 0


def read_scores(grid: Grid, dataset: str, folds: list[int], runs: Path) -> list[Score]:
    points = itertools.product(grid.methods, folds, grid.rates, grid.modules)
    return [_score(grid, dataset, runs, *point) for point in points]


def _score(grid: Grid, dataset: str, runs: Path, fusion: str, fold: int, rate: str, modules: str) -> Score:
    point = ["experiment=tune_table_5", f"dataset={dataset}", f"folds=[{fold}]"]
    point += [f"optimizer.lr={rate}", f"backbone.modules={modules}"]
    parts = itertools.product(grid.inner_folds, grid.methods[fusion])
    found = [_run([*point, f"dataset.inner_fold={inner}", f"method={method}"], runs) for inner, method in parts]
    values = tuple(run.values(METRIC)[fold] for run in found)
    capped = sum(run.replicates[fold]["stopped"] == "max_epochs" for run in found)
    return Score(fusion, fold, float(rate), int(modules), statistics.fmean(values), values, capped)


def _run(overrides: list[str], runs: Path) -> Run:
    planned = planned_run(overrides)
    run = read_run(RunDirectory.of(runs, planned.name, planned.hash).path)
    if run.state != "done":
        raise UserError(f"{run.name} is not done ({run.reason}); python -m multimodal_loss.train {' '.join(overrides)}")
    return run


def best(scores: list[Score], fusion: str, fold: int) -> Score:
    candidates = [score for score in scores if (score.fusion, score.fold) == (fusion, fold)]
    return min(candidates, key=lambda score: (-score.mean, score.lr, score.modules))


def tuned_yaml(scores: list[Score], dataset: str) -> str:
    """Values per fusion: a number where one fold was tuned, else one for each fold."""
    folds = sorted({score.fold for score in scores})
    fusions = dict.fromkeys(score.fusion for score in scores)

    def lines(value: Callable[[Score], float]) -> str:
        chosen = {fusion: [value(best(scores, fusion, fold)) for fold in folds] for fusion in fusions}
        values = {name: each[0] if len(each) == 1 else {"per_fold": each} for name, each in chosen.items()}
        return "".join(f"  {name}: {value}\n" for name, value in values.items())

    tuned_on = ", ".join(map(str, folds))
    return (
        f"# Written by scripts/choose_tuned.py from the runs of experiment=tune_table_5 dataset={dataset}; all scores\n"
        f"# are in outputs/results/tuning/{dataset}.csv. Chosen by the accuracy on inner folds of fold {tuned_on}.\n"
        f"learning_rates:\n{lines(lambda score: score.lr)}modules:\n{lines(lambda score: score.modules)}"
    )


def scores_csv(scores: list[Score]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["fusion", "fold", "lr", "modules", "accuracy", "inner_accuracies", "stopped_by_cap", "chosen"])
    for score in scores:
        values = ";".join(f"{value:.6f}" for value in score.values)
        chosen = int(score == best(scores, score.fusion, score.fold))
        row = [
            score.fusion,
            score.fold,
            f"{score.lr:g}",
            score.modules,
            f"{score.mean:.6f}",
            values,
            score.capped,
            chosen,
        ]
        writer.writerow(row)
    return text.getvalue()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))
    print(path)


if __name__ == "__main__":
    sys.exit(main())
