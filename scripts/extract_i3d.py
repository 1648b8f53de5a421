"""Pool every clip once through two frozen I3D: 1,024 numbers of RGB and 1,024 of flow, a folder of tables to fuse.

    python scripts/extract_i3d.py                                    # clips of data/epic to data/epic-features, 62 MB
    python scripts/extract_i3d.py device=cpu workers=2               # overrides as training takes them

Clips are cut from the middle, the networks evaluated as they were trained on Kinetics (their files: see
conf/backbone/x_norm.yaml). Interrupted, the same command goes on. Then `-m experiment=table_4_frozen` trains all
fusions of Table 4 on the features, in minutes on a CPU. It is not Table 4. Of a sweep's values the first is taken.

Features of networks that do not begin from the released weights are of little use: --any-weights makes them all the
same, in a folder of its own, to try the chain.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from multimodal_loss.backbones import XNorm
from multimodal_loss.command import run_script
from multimodal_loss.configuration import RunConfig, compose_config, first_job
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.datasets.cache import key_of
from multimodal_loss.datasets.getting.tables_folder import begin, finish, is_whole, write_table
from multimodal_loss.errors import UserError
from multimodal_loss.files import write_atomically
from multimodal_loss.training.run import choose_device, make_dataset

PIECE = 256  # clips that a killed process loses at most
Features = list[NDArray[np.float32]]  # of each modality (N, features)


def extract(overrides: Sequence[str], any_weights: bool = False, batch: int = 8) -> Path:
    """The folder, complete. Raises UserError for bad overrides, missing data, and other weights than the released."""
    settings = RunConfig.parse(compose_config(["dataset=epic", "backbone=x_norm", *first_job(overrides)]))
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device, dataset = choose_device(settings.device), make_dataset(settings)
    data = dataset.load()
    torch.manual_seed(0)
    shapes = {"feature_shapes": data.feature_shapes, "num_classes": len(data.classes)}
    network: XNorm = instantiate({**settings.backbone, "exchange": "none"}, _convert_="all", **shapes)
    described = network.description()
    released = "notice" not in described and "drawn" not in described["initial_weights"].values()
    if not released and not any_weights:
        raise UserError(
            f"frozen networks need the released weights, and these are {described['initial_weights']}: put the files "
            "where backbone.pretrained says, or try the chain with --any-weights"
        )
    name = f"{settings.facts['dataset']['name']}-features{'' if released else '-any-weights'}"
    folder = Path(settings.data_dir) / name
    source = {
        "made_by": "scripts/extract_i3d.py",
        "clips": data.fingerprint,
        "networks": key_of([described["initial_weights"], settings.backbone["width"]]),
        "generated": str(dataset.generated).lower(),
    }
    if not is_whole(folder, source):
        begin(folder)
        pieces = folder / f".{key_of(source)}"
        pieces.mkdir(exist_ok=True)
        _write(folder, source, data, pieces, _Pooled(network.to(device).eval(), device, batch, settings.workers))
        for left in folder.glob(".*/"):
            shutil.rmtree(left)
    return folder


class _Pooled:
    """What the networks pool clips to."""

    def __init__(self, network: XNorm, device: torch.device, batch: int, workers: int) -> None:
        self.network, self.device, self.batch, self.workers = network, device, batch, workers

    @torch.no_grad()
    def __call__(self, split: Split, first: int, last: int) -> Features:
        batches = split.batches(torch.arange(first, last), self.batch, self.device, workers=self.workers)
        found = [self.network.pooled_features(one.inputs) for one in batches]
        return [torch.cat(of_modality).cpu().numpy() for of_modality in zip(*found, strict=True)]


def _write(folder: Path, source: dict[str, str], data: MultimodalData, pieces: Path, pooled: _Pooled) -> None:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    parts = {name: split for name, split in splits.items() if split is not None}
    every: list[Features] = []
    with _progress() as progress:
        task = progress.add_task("clips", total=sum(len(split) for split in parts.values()))
        for name, split in parts.items():
            for piece in _pieces(split, pieces / name, pooled):
                every.append(piece)
                progress.advance(task, len(piece[0]))
    ids = [
        i for name, split in parts.items() for i in getattr(split, "names", [f"{name}-{n}" for n in range(len(split))])
    ]
    for modality, values in zip(data.modalities, zip(*every, strict=True), strict=True):
        table = np.concatenate(values)
        write_table(folder, modality, ids, [f"f{n}" for n in range(table.shape[1])], table.T)
    labels = {
        "label": [data.classes[c] for split in parts.values() for c in split.target.tolist()],
        "split": [name for name, split in parts.items() for _ in range(len(split))],
    }
    finish(folder, data.modalities, pd.DataFrame(labels, index=ids), source)


def _pieces(split: Split, start: Path, pooled: _Pooled) -> Iterator[Features]:
    """The features of a split, a piece at a time, from the files of an earlier attempt where there are any."""
    for first in range(0, len(split), PIECE):
        path = start.with_name(f"{start.name}-{first}.npz")
        if not path.exists():
            found = pooled(split, first, min(first + PIECE, len(split)))
            write_atomically(path, lambda file, found=found: np.savez(file, *found))  # type: ignore[misc]
        with np.load(path) as stored:
            yield [stored[key] for key in stored.files]


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="such as dataset.path=FOLDER device=cuda workers=8")
    parser.add_argument("--any-weights", action="store_true")
    parser.add_argument("--batch", type=int, default=8, help="clips at a time")
    arguments = parser.parse_args(given)
    how = (arguments.overrides, arguments.any_weights, arguments.batch)
    return run_script(Path.cwd(), lambda: print(extract(*how)))


if __name__ == "__main__":
    sys.exit(main())
