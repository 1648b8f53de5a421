"""A made-up sweep of Table 3 or of its quick profile: every run of a layout, of which some can be left out."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fakes import fake_facts, fake_name, fake_plan, fake_result, write_curves, write_predictions, write_run
from golden.tcga import runs_of
from multimodal_loss.datasets.opportunity_channels import DEVICES, TASKS, TEST_RUNS, label_track
from multimodal_loss.reporting.layouts.base import Layout, Overrides
from multimodal_loss.results.metrics import compute_metrics

NAMES = [device.name for device in DEVICES]
METRICS = ("ACC", "FM", "FW", "MCC", "NLL", "ECE")


def activities(generator: np.random.Generator, windows: int, classes: int) -> NDArray[np.int64]:
    """Classes (windows,) in segments of 2 to 9 windows, every other one Null (0)."""
    count = windows // 2 + 2
    sequence = np.stack([np.zeros(count, dtype=np.int64), generator.integers(1, classes, count)], axis=1)
    return np.repeat(sequence.ravel(), generator.integers(2, 10, 2 * count))[:windows]


def fake_recognition(task: str, devices: int, quality: float, windows: int, replicates: int) -> dict[str, NDArray[Any]]:
    """Predictions in which each device tells some classes well and others not, and the fused ones their mean."""
    classes = len(label_track(TASKS[task][1])[1])
    target = activities(np.random.default_rng(0), windows, classes)
    strength = quality * np.random.default_rng(1).random((devices, classes)) ** 2
    arrays: dict[str, NDArray[Any]] = {}
    for r in range(replicates):
        noise = np.random.default_rng(2 + r).normal(size=(windows, devices, classes))
        scores = np.exp(noise + strength[:, target].T[:, :, None] * np.eye(classes)[target][:, None])
        own = (scores / scores.sum(axis=2, keepdims=True)).astype(np.float32)
        arrays |= {f"{r}/target": target, f"{r}/modalities": own, f"{r}/fused": own.mean(axis=1)}
    return arrays


def write_opportunity(
    folder: Path,
    layout: Layout,
    windows: int = 120,
    without: Collection[Overrides] = (),
    predictions: bool = True,
    recordings: bool = True,
) -> None:
    """Every run that the layout names, its metrics those of its predictions; sample-wise ones are 0.01 lower."""
    for place, overrides in enumerate(runs_of(layout)):
        if overrides in without:
            continue
        chosen = dict(override.split("=", 1) for override in overrides)
        task, late = chosen.get("dataset.task", "locomotion"), chosen["method"].startswith("late")
        names = NAMES if late else ["joint"]
        replicates = len(fake_plan(overrides).replicates)
        arrays = fake_recognition(task, len(names), 0.5 + 0.02 * (place % 8) + 2.0 * (not late), windows, replicates)
        result = fake_result([0.0] * replicates, names, inputs=NAMES, profile=layout.profile)
        for r, replicate in enumerate(result["replicates"]):
            fused = compute_metrics(arrays[f"{r}/target"], arrays[f"{r}/fused"])
            test = {"fused": fused, "modalities": {name: fused | {"ACC": 0.5} for name in names}}
            samples = {metric: (fused[metric] or 0.0) - 0.01 for metric in METRICS}
            replicate |= {"metrics": {"test": test, "test_samples": {"fused": samples}}, "seconds": 60.0}
            replicate["data_fingerprint"] = "generated-0a1b" if layout.profile == "quick" else "0a1b"
        facts = fake_facts(layout.dataset, chosen["method"], "deep_conv_lstm")
        result["config"] |= {"dataset": {}, "facts": facts, "trainer": {"batch_size": 100, "max_epochs": 300}}
        share = windows // len(TEST_RUNS)
        lengths = [share + 10, share - 10, share, windows - 3 * share]
        generated = layout.profile == "quick"
        result["dataset"] |= {"name": layout.dataset, "generated": generated, "seconds_per_prediction": 0.4}
        result["dataset"] |= {"classes": list(label_track(TASKS[task][1])[1])}
        if recordings:
            result["dataset"]["recordings"] = [list(pair) for pair in zip(TEST_RUNS, lengths, strict=True)]
        run = write_run(folder / fake_name(overrides), result)
        write_curves(run, replicates, epochs=40)
        if predictions:
            write_predictions(run, arrays)
