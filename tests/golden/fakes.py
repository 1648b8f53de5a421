"""Run directories with made-up numbers, for tests of everything that reads them."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_loss.reporting.analysis.fill import Runs
from multimodal_loss.results.collect import read_runs
from multimodal_loss.results.run_directory import SCHEMA


class FakePlan(NamedTuple):
    hash: str
    replicates: tuple[int, ...]
    facts: dict[str, Any]
    name: str


def fake_plan(overrides: Sequence[str]) -> FakePlan:
    """Stands for configuration.planned_run: other overrides, another hash, whichever full experiment asks."""
    chosen = dict(override.split("=", 1) for override in overrides if "=" in override)
    plain = [override for override in overrides if "=" not in override]
    experiment = chosen.pop("experiment", "")
    if chosen == {"dataset": chosen.get("dataset"), "fusion.proxies_per_class": "20"}:
        chosen = {"dataset": chosen["dataset"], "method": "multimodal"}
    quick = experiment.startswith("quick")
    text = "_".join([experiment if quick else "", *plain, *(f"{key}={chosen[key]}" for key in sorted(chosen))])
    name = re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-")
    replicates = {"quick": (0, 1), "quick_table_2": (0,), "quick_table_3": (0,)}.get(experiment, tuple(range(5)))
    return FakePlan(hashlib.sha256(text.encode()).hexdigest()[:10], replicates, {}, name)


def fake_name(overrides: Sequence[str]) -> str:
    """The run directory of these overrides."""
    plan = fake_plan(overrides)
    return f"{plan.name}-{plan.hash}"


def named_plan(overrides: Sequence[str]) -> FakePlan:
    """The first override is the run directory's whole name."""
    return FakePlan(overrides[0], tuple(range(5)), {}, overrides[0])


def fake_runs(folder: Path) -> Runs:
    return Runs(read_runs(folder), fake_plan)


def fake_facts(
    dataset: str = "synthetic", method: str = "multimodal", backbone: str = "mlp", **more: str
) -> dict[str, Any]:
    """What a stored config says about what it builds."""
    parts = {"dataset": dataset, "method": method, "fusion": method, "backbone": backbone}
    facts = {part: {"name": name, "title": f"{name} title"} for part, name in parts.items()}
    facts["dataset"] |= more
    return facts


def fake_result(
    accuracies: Sequence[float],
    modalities: Sequence[str] = ("m1", "m2", "m3"),
    proxies: bool = False,
    inputs: Sequence[str] = (),
    **changes: Any,
) -> dict[str, Any]:
    """A finished run with one replicate per accuracy; `changes` replace top-level entries."""
    replicates = []
    for r, accuracy in enumerate(accuracies):
        metrics = {
            "ACC": accuracy,
            "NLL": 1 - accuracy,
            "Brier": 1.5 * (1 - accuracy),
            "ECE": 0.02 + 0.01 * r,
            "entropy": 0.3,
            "confidence_gap": 0.01,
            "AUC": None,
        }
        split = {"fused": metrics, "modalities": {name: metrics for name in modalities}}
        replicates.append(
            {
                "replicate_id": r,
                "seed": r,
                "fold": None,
                "epochs": 800 + r,
                "stopped": "no_progress",
                "seconds": 60.5 + r,
                "data_fingerprint": "0a1b2c",
                "metrics": {"test": split, "validation": split},
                "proxies": {"alive": [20, 19], "used": [5 + r, 6], "distinct": [9, 8 + r]} if proxies else None,
            }
        )
    return {
        "schema": SCHEMA,
        "status": "done",
        "error": None,
        "profile": "full",
        "config": {
            "dataset": {"data_seed": 7},
            "optimizer": {"lr": 5e-4},
            "trainer": {"max_epochs": 500_000},
            "facts": fake_facts(),
        },
        "data": {"fingerprint": "0a1b2c", "version": 1},
        "dataset": {
            "name": "synthetic",
            "modalities": list(modalities),
            "inputs": list(inputs or modalities),
            "classes": ["0", "1"],
            "generated": False,
        },
        "git": {"sha": "0123456789abcdef", "dirty": False},
        "versions": {"python": "3.11.9", "torch": "2.14.1"},
        "hardware": {"cpu": "an example CPU", "cores": 2, "threads": 1, "gpu": None},
        "device": "cpu",
        "started": "2026-01-01T10:00:00+00:00",
        "ended": "2026-01-01T10:05:00+00:00",
        "replicates": replicates,
    } | changes


def write_run(folder: Path, result: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return folder


def write_curves(folder: Path, replicates: int, epochs: int = 800, start: float = 0.7, end: float = 0.01) -> None:
    """history.csv: exponential decay with a little noise, thinned as training thins it."""
    generator = np.random.default_rng(0)
    lines = ["replicate_id,epoch,train_loss,seconds"]
    for r in range(replicates):
        last = epochs + 30 * r
        logged = [e for e in range(1, last + 1) if e <= 100 or e % 10 == 0 or e == last]
        for epoch in logged:
            loss = (end + (start - end) * np.exp(-5 * epoch / last)) * np.exp(0.03 * generator.normal())
            lines.append(f"{r},{epoch},{loss:.6g},{0.1 * epoch:.1f}")
    (folder / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def fake_predictions(
    accuracies: Sequence[Sequence[float]], samples: int = 500, modalities: int | None = None
) -> dict[str, NDArray[Any]]:
    """Two-class predictions; `accuracies[r]` lists for replicate r each modality's accuracy, the fused one last."""
    arrays: dict[str, NDArray[Any]] = {}
    for r, wanted in enumerate(accuracies):
        generator = np.random.default_rng(r)
        target = np.repeat([0, 1], samples // 2)
        columns = []
        for accuracy in wanted:
            strength = max(0.02, 3 * (accuracy - 0.5))
            score = strength * (2 * target - 1) + generator.normal(size=samples)
            positive = 1 / (1 + np.exp(-2 * strength * score))
            columns.append(np.stack([1 - positive, positive], axis=1))
        stacked = np.stack(columns, axis=1).astype(np.float32)
        arrays[f"{r}/target"] = target.astype(np.int64)
        arrays[f"{r}/fused"] = stacked[:, -1]
        arrays[f"{r}/modalities"] = stacked[:, : modalities or (len(wanted) - 1)]
    return arrays


def write_predictions(folder: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with (folder / "predictions.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def fake_outputs(
    classes: int, replicates: int, samples: int = 60, per_class: int = 4, modalities: int = 2
) -> dict[str, NDArray[Any]]:
    """Predictions of several classes with all that a MultiModal run stores: training outputs and proxies too.

    Each class has two subgroups: in the one the first modality is right, in the other the last. Its proxies 0 and 1 lie
    on these subgroups, proxy 2 is unused, all further ones are dead (zero).
    """
    arrays: dict[str, NDArray[Any]] = {}
    for r in range(replicates):
        generator = np.random.default_rng(100 + r)

        def outputs(target: NDArray[np.int64], generator: np.random.Generator = generator) -> NDArray[np.float32]:
            strength = np.where(np.arange(modalities) == 0, 4.0, 0.5) * np.ones((len(target), 1))
            strength[1::2] = strength[1::2, ::-1]
            scores = strength[:, :, None] * np.eye(classes)[target][:, None] + generator.normal(
                scale=0.5, size=(len(target), modalities, classes)
            )
            exponential = np.exp(scores)
            return (exponential / exponential.sum(axis=2, keepdims=True)).astype(np.float32)

        target, train = np.arange(samples) // 2 % classes, np.arange(2 * samples) // 2 % classes
        test_outputs, train_outputs = outputs(target), outputs(train)
        proxies = np.zeros((classes, per_class, modalities, classes), dtype=np.float32)
        for c in range(classes):
            own = np.flatnonzero(train == c)
            proxies[c, 0], proxies[c, 1] = (train_outputs[own[part::2]].mean(axis=0) for part in (0, 1))
            proxies[c, 2, :, (c + 1) % classes] = 1
        proxies /= np.maximum(np.linalg.norm(proxies, axis=(2, 3), keepdims=True), 1e-12)
        arrays |= {f"{r}/target": target, f"{r}/modalities": test_outputs, f"{r}/fused": test_outputs.mean(axis=1)}
        arrays |= {f"{r}/train_target": train, f"{r}/train_modalities": train_outputs, f"{r}/proxies": proxies}
    return arrays
