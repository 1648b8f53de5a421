"""A made-up sweep of Table 2 or of its quick profile: every run of a layout, of which some can be left out."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fakes import fake_facts, fake_name, fake_plan, fake_result, write_curves, write_predictions, write_run
from golden.tcga import runs_of
from multimodal_loss.reporting.layouts.base import Layout, Overrides
from multimodal_loss.results.metrics import compute_metrics

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
NAMES = {"unimodal_1": ["audio"], "unimodal_2": ["video"], "joint_head": ["joint"]}


def fake_emotions(classes: int, modalities: int, quality: float, replicates: int) -> dict[str, NDArray[Any]]:
    """Predictions in which each modality tells some emotions well and others not; the fused ones add them up."""
    strength = quality * np.random.default_rng(1).random((2, classes))[-modalities:] ** 2
    arrays: dict[str, NDArray[Any]] = {}
    for r in range(replicates):
        target = np.arange(120 + 10 * r) % classes
        scores = np.random.default_rng(2 + r).normal(size=(len(target), modalities, classes))
        scores += strength[:, target].T[:, :, None] * np.eye(classes)[target][:, None]
        own = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
        fused = np.exp(scores.sum(axis=1)) / np.exp(scores.sum(axis=1)).sum(axis=1, keepdims=True)
        arrays |= {f"{r}/target": target, f"{r}/modalities": own.astype(np.float32), f"{r}/fused": fused}
    return arrays


def write_ravdess(folder: Path, layout: Layout, without: Collection[Overrides] = (), notice: str = "") -> None:
    """Every run that the layout names, its metrics those of its predictions; `notice` of those with video."""
    quick = layout.profile == "quick"
    for place, overrides in enumerate(runs_of(layout)):
        if overrides in without:
            continue
        chosen = dict(override.split("=", 1) for override in overrides)
        method, classes = chosen["method"], EMOTIONS[chosen.get("dataset.classes") != "eight" :]
        names = NAMES.get(method, ["audio", "video"])
        replicates = len(fake_plan(overrides).replicates)
        arrays = fake_emotions(len(classes), len(names), 3.0 + 0.4 * place, replicates)
        inputs = names if method.startswith("unimodal") else ["audio", "video"]
        result = fake_result([0.0] * replicates, names, inputs=inputs, profile=layout.profile)
        for r, replicate in enumerate(result["replicates"]):
            target = arrays[f"{r}/target"]
            own = {n: compute_metrics(target, arrays[f"{r}/modalities"][:, m]) for m, n in enumerate(names)}
            replicate["metrics"] = {"test": {"fused": compute_metrics(target, arrays[f"{r}/fused"]), "modalities": own}}
            replicate |= {"fold": r, "seconds": 600.0, "data_fingerprint": "generated-0a" if quick else "0a"}
        facts = fake_facts(layout.dataset, method, "intermediate_attention")
        result["config"] |= {"dataset": {}, "facts": facts, "trainer": {"batch_size": 8, "max_epochs": 1000}}
        sizes = {"train": 1140, "validation": 0, "test": 300}
        result["dataset"] |= {"name": layout.dataset, "generated": quick, "classes": list(classes), "sizes": sizes}
        if notice and "video" in inputs:
            result["backbone"] = {"notice": notice}
        run = write_run(folder / fake_name(overrides), result)
        write_curves(run, replicates, epochs=60)
        write_predictions(run, arrays)
