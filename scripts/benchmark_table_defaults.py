"""What the defaults of `dataset=tables` are chosen by: whole runs with them, on training samples of Table 7 alone.

    make data-benchmark && python scripts/benchmark_table_defaults.py [--datasets htad tcga_brca] [--folders my_study]

The training part of each dataset's first split becomes a folder, as a user's would be (at most --samples of it, drawn
by class), and every row is run on it as on any folder, with what is tuned on a part of the training samples of each of
its folds. So none of that split's test samples plays a role, in what is chosen or in what is scored. Folders given by
--folders are taken as they are.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from sklearn.model_selection import train_test_split

from multimodal_loss.configuration import RunConfig, compose_config
from multimodal_loss.results.collect import Run, read_run
from multimodal_loss.training.run import make_dataset, run

DATASETS = ("tcga_brca", "htad", "tcga_kipan", "digits", "tcga_subtypes", "mnist_hog")
ROWS = {
    "concatenation + logistic regression": ("method=logistic",),
    "SUM + CE on logits": ("method=sum_ce_logits",),
    "SUM + CE on logits, one learning rate": ("method=sum_ce_logits", "backbone.wide_input=null"),
    "MultiModal": ("method=multimodal",),
    "MultiModal, one learning rate": ("method=multimodal", "backbone.wide_input=null"),
    "MultiModal, gamma 0.5": ("method=multimodal", "fusion.gamma=0.5"),
    "MultiModal, attending to logits, gamma 0.1": ("method=multimodal_logits", "fusion.gamma=0.1"),
    "MultiModal, attending to logits, gamma 0.5": ("method=multimodal_logits", "fusion.gamma=0.5"),
    "MultiModal, attending to logits, gamma 1": ("method=multimodal_logits",),
}


def training_part(name: str, folder: Path, samples: int) -> Path:
    """The folder, with the training samples of Table 7's first split of a dataset."""
    data = make_dataset(RunConfig.parse(compose_config(["experiment=table_7_plain", f"dataset={name}"]))).load(0)
    target = data.train.target.numpy()
    rows = range(len(target))
    if len(target) > samples:
        rows = train_test_split(rows, train_size=samples, stratify=target, random_state=0)[0]
    ids = pd.Index([f"s{row}" for row in rows], name="id")
    folder.mkdir(parents=True)
    for modality, x in zip(data.modalities, data.train.inputs, strict=True):
        pd.DataFrame(x[list(rows)].numpy(), index=ids).rename(columns=str).reset_index().to_parquet(
            folder / f"{modality}.parquet", index=False
        )
    pd.DataFrame({"label": [data.classes[target[row]] for row in rows]}, index=ids).to_csv(folder / "labels.csv")
    return folder


def scores(folder: Path, folds: int, rows: list[str], runs: Path) -> Iterator[tuple[str, Run]]:
    for title in rows:
        overrides = ["dataset=tables", f"dataset.path={folder}", f"dataset.label={folder.name}", *ROWS[title]]
        overrides += [f"folds={list(range(folds))}".replace(" ", ""), f"output_dir={runs}", "progress=false"]
        yield title, read_run(run(compose_config([*overrides, "threads=1", "device=cpu"])).path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="*", choices=DATASETS, default=DATASETS)
    parser.add_argument("--folders", nargs="*", type=Path, default=[])
    parser.add_argument("--folds", type=int, default=3, help="of five")
    parser.add_argument("--samples", type=int, default=800, help="at most so many of each dataset")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.folds} of 5 folds; accuracy in percent, NLL in nats, seconds of the last training of a fold")
    with tempfile.TemporaryDirectory() as scratch:
        folders = options.folders + [
            training_part(name, Path(scratch) / name, options.samples) for name in options.datasets
        ]
        for folder in folders:
            print(f"\n{folder.name}", flush=True)
            for title, found in scores(folder, options.folds, options.rows, Path(scratch) / "runs"):
                values = [found.values(key).values() for key in ("test/fused/ACC", "test/fused/NLL", "seconds")]
                accuracy, nll, seconds = map(statistics.fmean, values)
                print(f"  {title:44} {100 * accuracy:5.1f}  {nll:6.3f}  {seconds:5.1f}", flush=True)


if __name__ == "__main__":
    main()
