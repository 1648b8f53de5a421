"""Test and validation predictions of trained replicates, and their metrics."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multimodal_loss.datasets.base import Split
from multimodal_loss.fusion import MultiModalLoss
from multimodal_loss.results.metrics import compute_metrics
from multimodal_loss.training.replicate import FusionInput, Replicate, fusion_input

BATCH = 2_000


@torch.no_grad()
def scores_of(replicate: Replicate, split: Split, device: torch.device) -> torch.Tensor:
    """Scores (N, M, C) on `device`, computed in batches so that activations stay small."""
    replicate.backbone.eval()
    starts = range(0, len(split), BATCH)
    return torch.cat([replicate.backbone([x[i : i + BATCH].to(device) for x in split.inputs]) for i in starts])


@torch.no_grad()
def predict(replicate: Replicate, split: Split, kind: FusionInput, device: torch.device) -> dict[str, NDArray[Any]]:
    """`target` (N,), and the probabilities `fused` (N, C) and `modalities` (N, M, C)."""
    scores = scores_of(replicate, split, device)
    replicate.fusion.eval()
    inputs = fusion_input(scores, kind)
    fused = torch.cat([replicate.fusion.probabilities(part) for part in inputs.split(BATCH)])
    return {
        "target": split.target.numpy(),
        "fused": fused.float().cpu().numpy(),
        "modalities": scores.softmax(-1).float().cpu().numpy(),
    }


def metrics_of(prediction: dict[str, NDArray[Any]], modalities: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of the fused prediction and of every modality's own."""
    target = prediction["target"]
    per_modality = {name: prediction["modalities"][:, m] for m, name in enumerate(modalities)}
    return {
        "fused": compute_metrics(target, prediction["fused"]),
        "modalities": {name: compute_metrics(target, np.ascontiguousarray(p)) for name, p in per_modality.items()},
    }


@torch.no_grad()
def proxy_counts(replicate: Replicate, kind: FusionInput, device: torch.device) -> dict[str, Any] | None:
    """Counts of each class's proxies that are alive, used by training samples, and distinct; None without proxies."""
    if not isinstance(replicate.fusion, MultiModalLoss):
        return None
    train = replicate.data.train
    scores = fusion_input(scores_of(replicate, train, device), kind)
    return replicate.fusion.proxy_diagnostics(scores, train.target.to(device))
