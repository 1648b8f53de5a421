"""Predictions of replicates and their metrics, and what is fitted to the training predictions once training is over."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor

from multimodal_loss.datasets import Split
from multimodal_loss.datasets.opportunity import WindowSplit, sample_wise
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.fusion import MultiModalLoss, Multitask
from multimodal_loss.results.metrics import compute_metrics
from multimodal_loss.fusion.logistic import fit_logistic
from multimodal_loss.training.replicate import FusionInput, Replicate, fusion_input

BATCH = 500  # samples at a time: a window's activations in DeepConvLSTM take half a megabyte


@torch.no_grad()
def scores_of(replicate: Replicate, split: Split, device: torch.device) -> Tensor:
    """Scores (N, M, C) on `device`, computed in batches so that activations stay small. TrainingError: not finite."""
    was_training = replicate.backbone.training
    replicate.backbone.eval()
    starts = range(0, len(split), BATCH)
    scores = [replicate.backbone([x.to(device) for x in split.rows(slice(i, i + BATCH))]) for i in starts]
    replicate.backbone.train(was_training)
    return _finite(torch.cat(scores), replicate)


def _finite(values: Tensor, replicate: Replicate) -> Tensor:
    """The values. The loss is from before an update: the last update may still have spoilt the weights."""
    if not bool(values.isfinite().all()):
        raise TrainingError(f"what replicate {replicate.number} predicts is not finite; try a smaller trainer.lr")
    return values


@torch.no_grad()
def predict(replicate: Replicate, split: Split, kind: FusionInput, device: torch.device) -> dict[str, NDArray[Any]]:
    """`target` (N,), and the probabilities `fused` (N, C) and `modalities` (N, M, C)."""
    scores = scores_of(replicate, split, device)
    inputs = fusion_input(scores, kind)
    fused = _finite(torch.cat([replicate.fusion.probabilities(part) for part in inputs.split(BATCH)]), replicate)
    return {
        "target": split.target.cpu().numpy(),
        "fused": fused.float().cpu().numpy(),
        "modalities": scores.softmax(-1).float().cpu().numpy(),
    }


def metrics_of(prediction: dict[str, NDArray[Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of the fused prediction and of every score's own."""
    target = prediction["target"]
    per_modality = {name: prediction["modalities"][:, m] for m, name in enumerate(names)}
    return {
        "fused": compute_metrics(target, prediction["fused"]),
        "modalities": {name: compute_metrics(target, np.ascontiguousarray(p)) for name, p in per_modality.items()},
    }


def per_sample_metrics(prediction: dict[str, NDArray[Any]], split: Split) -> dict[str, Any] | None:
    """Metrics of the fused prediction for every sample of a recording, from those of its windows; None elsewhere."""
    if not isinstance(split, WindowSplit):
        return None
    target = split.sample_target.cpu().numpy()
    return {"fused": compute_metrics(target, sample_wise(prediction["fused"], len(target), split.window, split.step))}


def windows_per_recording(split: Split) -> list[tuple[str, int]] | None:
    """How many windows end in each recording, in order; None for a split without windows."""
    if not isinstance(split, WindowSplit):
        return None
    ends = split.starts + split.window - 1
    return [(name, int(((ends >= first) & (ends < first + rows)).sum())) for name, first, rows in split.recordings]


def validation_split(replicate: Replicate) -> Split:
    """The replicate's validation rows; a dataset without them cannot be monitored."""
    if replicate.data.validation is None:
        raise UserError("these data have no validation part to monitor: set trainer.monitor=null")
    return replicate.data.validation


class Validation:
    """The replicates' validation parts, moved to the device when first asked for, and their values there."""

    def __init__(self, replicates: Sequence[Replicate], kind: FusionInput, device: torch.device) -> None:
        self._replicates, self._kind, self._device = replicates, kind, device
        self._splits: dict[int, Split] = {}

    def values(self, positions: Sequence[int], monitor: str) -> list[float]:
        """What is monitored of the replicates at `positions`, with the weights that their modules hold."""
        if not self._splits:
            self._splits = {id(r.data): validation_split(r).to(self._device) for r in self._replicates}
        chosen = [self._replicates[position] for position in positions]
        return [validation_value(r, self._splits[id(r.data)], monitor, self._kind, self._device) for r in chosen]


@torch.no_grad()
def validation_value(
    replicate: Replicate, split: Split, monitor: str, kind: FusionInput, device: torch.device
) -> float:
    """The validation loss, or 1 minus the macro F1 (validation_FM): less is better."""
    if monitor == "validation_loss":
        scores = fusion_input(scores_of(replicate, split, device), kind)
        return float(replicate.fusion(scores, split.target.to(device)))
    prediction = predict(replicate, split, kind, device)
    return 1.0 - float(f1_score(prediction["target"], prediction["fused"].argmax(1), average="macro", zero_division=0))


def fit_ensemble(replicate: Replicate, device: torch.device) -> None:
    """MOMA's second step, where the fusion asks for it: logistic regression on the modalities' probabilities."""
    fusion = replicate.fusion
    if not isinstance(fusion, Multitask) or fusion.ensemble != "logistic":
        return
    probabilities = scores_of(replicate, replicate.data.train, device).softmax(-1).flatten(1)
    weight, bias = fit_logistic(probabilities.cpu(), replicate.data.train.target, fusion.num_classes, C=1.0)
    fusion.set_ensemble(weight, bias)


@torch.no_grad()
def training_outputs(replicate: Replicate, kind: FusionInput, device: torch.device) -> dict[str, NDArray[Any]]:
    """What the pictures of Appendix C need beside the test predictions: `train_target` (N,), `train_modalities`
    (N, M, C), and for the MultiModal loss `proxies` (C, K, M, C) as they enter the formulas.
    """
    prediction = predict(replicate, replicate.data.train, kind, device)
    outputs = {"train_target": prediction["target"], "train_modalities": prediction["modalities"]}
    if isinstance(replicate.fusion, MultiModalLoss):
        outputs["proxies"] = replicate.fusion.effective_proxies().float().cpu().numpy()
    return outputs


@torch.no_grad()
def proxy_counts(replicate: Replicate, kind: FusionInput, device: torch.device) -> dict[str, Any] | None:
    """Counts of each class's proxies that are alive, used by training samples, and distinct; None without proxies."""
    if not isinstance(replicate.fusion, MultiModalLoss):
        return None
    train = replicate.data.train
    scores = fusion_input(scores_of(replicate, train, device), kind)
    return replicate.fusion.proxy_diagnostics(scores, train.target.to(device))
