"""A made-up sweep of the TCGA tables: five folds of every run, of which some can be left out."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from golden.fakes import (
    fake_facts,
    fake_name,
    fake_outputs,
    fake_predictions,
    fake_result,
    write_curves,
    write_predictions,
    write_run,
)
from multimodal_loss.reporting.layouts.base import Layout, Overrides
from multimodal_loss.reporting.layouts.tcga import VARIANTS
from multimodal_loss.results.metrics import METRICS

FOLDS = 5
SIZES = {"train": 400, "validation": 0, "test": 100}


def runs_of(*layouts: Layout) -> list[Overrides]:
    return list(dict.fromkeys(cell.run for layout in layouts for cell in layout.cells))


def write_tcga(
    folder: Path,
    *layouts: Layout,
    classes: int = 4,
    per_class: int = 4,
    samples: int = 60,
    without: Collection[Overrides] = (),
    predictions: bool = True,
) -> None:
    """Every run that the layouts name. Accuracies fall by a point from run to run; folds differ by less."""
    for place, overrides in enumerate(runs_of(*layouts)):
        if overrides in without:
            continue
        chosen = dict(override.split("=", 1) for override in overrides)
        method = chosen.get("method", "multimodal")
        names = {"1": ["GE"], "2": ["DM"]}.get(method[-1], ["GE", "DM"])
        logistic = method.startswith("logistic")
        modalities = ["joint"] if logistic and len(names) > 1 else names
        has_proxies = method in VARIANTS
        noise = np.random.default_rng(place)
        accuracies = (0.96 - 0.01 * place + 0.002 * noise.normal(size=FOLDS)).tolist()
        counts = {"alive": [per_class - 1] * classes, "used": [2] * classes, "distinct": [3] * classes}
        result = fake_result(accuracies, modalities, inputs=names)
        for fold, replicate in enumerate(result["replicates"]):
            replicate |= {"fold": fold, "seconds": 60.0 * (5 + place) + fold}
            replicate["proxies"] = counts if has_proxies else None
            sources = [
                dict.fromkeys(METRICS, accuracies[fold] - 0.01 * m)
                | {"NLL": 0.2 + 0.1 * m, "ECE": 0.03, "entropy": 0.2, "confidence_gap": -0.01}
                for m in range(1 + len(modalities))
            ]
            per_modality = dict(zip(modalities, sources[1:], strict=True))
            replicate["metrics"] = {"test": {"fused": sources[0], "modalities": per_modality}}
        backbone = "logistic" if logistic else "moma"
        result["config"] |= {"dataset": {}, "facts": fake_facts(chosen["dataset"], method, backbone)}
        result["dataset"] |= {
            "name": chosen["dataset"],
            "sizes": SIZES,
            "classes": [f"type {c}" for c in range(classes)],
        }
        run = write_run(folder / fake_name(overrides), result)
        if not predictions:
            continue
        if has_proxies:
            write_predictions(run, fake_outputs(classes, FOLDS, samples, per_class))
        else:
            write_predictions(run, fake_predictions([(*[0.8] * len(modalities), 0.9)] * FOLDS, samples=samples))
        write_curves(run, replicates=FOLDS)
