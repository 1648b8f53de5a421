"""Metrics of one set of predictions: how often right, and how honest the probabilities are.

Everything is a fraction (accuracy 0.864, not 86.4); tables turn fractions into percent. A metric that is undefined for
the data at hand is None, never NaN, so that it survives JSON.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, matthews_corrcoef, roc_auc_score

METRICS = ("ACC", "FM", "FW", "MCC", "AUC", "AP", "NLL", "Brier", "ECE", "entropy", "confidence_gap")
CALIBRATION_METRICS = ("NLL", "Brier", "ECE", "entropy", "confidence_gap")

# A true class with probability exactly 0 would make the mean NLL infinite. It counts as this much instead: 27.6 nats.
SMALLEST_PROBABILITY = 1e-12

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class ReliabilityBins(NamedTuple):
    """Samples grouped by the confidence of their predicted class; every array has one entry per bin.

    `confidence` and `accuracy` are means over a bin's samples, NaN where `samples` is 0. Bin b of n is (b/n, (b+1)/n].
    """

    samples: Integers
    confidence: Floats
    accuracy: Floats


def compute_metrics(target: NDArray[np.integer], probabilities: NDArray[np.floating]) -> dict[str, float | None]:
    """All `METRICS` for class indices `target` (N,) and class probabilities (N, C), C >= 2.

    ACC        share of samples whose most probable class is the target (the first of equals)
    FM, FW     F1 per class, averaged plainly (macro) or by class frequency (weighted), over the classes that occur in
               targets or predictions
    MCC        Matthews correlation, 0 where its denominator is 0
    AUC, AP    area under the ROC curve and average precision: of class 1 for two classes, else the mean over classes,
               one against the rest; None if a class is absent from the target
    NLL        mean of -ln p(target) in nats, p at least SMALLEST_PROBABILITY
    Brier      mean of sum_c (p_c - [c = target])^2, from 0 to 2
    ECE        expected calibration error of the predicted class, 15 equal-width bins
    entropy    mean of -sum_c p_c ln p_c in nats
    confidence_gap  mean probability of the predicted class minus ACC; positive is over-confident

    Raises ValueError for shapes that do not fit, targets outside 0..C-1, or rows that are not probabilities.
    """
    target, probabilities = _checked(target, probabilities)
    predicted = probabilities.argmax(axis=1)
    accuracy = float(accuracy_score(target, predicted))
    one_hot = np.eye(probabilities.shape[1])[target]
    true_class = np.take_along_axis(probabilities, target[:, None], axis=1)
    return {
        "ACC": accuracy,
        "FM": float(f1_score(target, predicted, average="macro", zero_division=0)),
        "FW": float(f1_score(target, predicted, average="weighted", zero_division=0)),
        "MCC": _matthews(target, predicted),
        "AUC": _ranking(target, probabilities, roc_auc_score),
        "AP": _ranking(target, probabilities, average_precision_score),
        "NLL": float(np.log(1 / np.maximum(true_class, SMALLEST_PROBABILITY)).mean()),
        "Brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "ECE": _calibration_error(target, probabilities),
        "entropy": float(np.mean(entropy(probabilities, axis=1))),
        "confidence_gap": float(probabilities.max(axis=1).mean()) - accuracy,
    }


def reliability_bins(
    target: NDArray[np.integer], probabilities: NDArray[np.floating], bins: int = 15
) -> ReliabilityBins:
    """Accuracy against confidence of the predicted class, in `bins` equal-width bins over (0, 1]."""
    target, probabilities = _checked(target, probabilities)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == target
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    samples = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty bin is the NaN that is promised
        mean_confidence = np.bincount(index, confidence, bins) / samples
        mean_accuracy = np.bincount(index, correct, bins) / samples
    return ReliabilityBins(samples, mean_confidence, mean_accuracy)


def true_class_histogram(
    target: NDArray[np.integer], modality_probabilities: NDArray[np.floating], bins: int = 10
) -> Floats:
    """The paper's Figure 4 as numbers, (M, bins): the share of samples whose true class got a probability in each bin.

    `modality_probabilities` is (N, M, C). The bins have equal width over [0, 1], closed below, and the last one above.
    Each modality's row sums to 1.
    """
    target = np.asarray(target)
    true_class = np.take_along_axis(np.asarray(modality_probabilities), target[:, None, None], axis=2)[:, :, 0]
    counts = [np.histogram(np.clip(column, 0, 1), bins=bins, range=(0, 1))[0] for column in true_class.T]
    return np.stack(counts) / len(target)


def are_probabilities(values: NDArray[np.floating]) -> bool:
    """Whether the last axis holds probabilities; half-precision rows are off by up to C * 2^-9. NaN is none."""
    return bool(np.all(values >= 0) and np.all(np.abs(values.sum(axis=-1) - 1) < 0.02))


def _checked(
    target: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Both as 64-bit arrays, rows summing to 1 exactly (float32 rows are off by 1e-7), or ValueError."""
    target, probabilities = np.asarray(target), np.asarray(probabilities, dtype=np.float64)
    if target.ndim != 1 or probabilities.ndim != 2 or len(target) != len(probabilities):
        raise ValueError(f"expected target (N,) and probabilities (N, C), got {target.shape} and {probabilities.shape}")
    if len(target) == 0 or probabilities.shape[1] < 2:
        raise ValueError(f"at least one sample and two classes are needed, got probabilities {probabilities.shape}")
    if target.min() < 0 or target.max() >= probabilities.shape[1]:
        raise ValueError(f"targets {target.min()} to {target.max()} do not fit {probabilities.shape[1]} classes")
    if not are_probabilities(probabilities):
        raise ValueError("probabilities must be non-negative and sum to 1 in each row")
    return target.astype(np.int64), probabilities / probabilities.sum(axis=1, keepdims=True)


def _matthews(target: Integers, predicted: Integers) -> float:
    if len(np.unique(np.concatenate([target, predicted]))) == 1:
        return 0.0  # scikit-learn says the same, with a warning
    return float(matthews_corrcoef(target, predicted))


def _ranking(target: Integers, probabilities: Floats, score: Callable[..., float]) -> float | None:
    """A one-against-the-rest score: of class 1 alone where there are two classes."""
    classes = range(probabilities.shape[1])
    if len(np.unique(target)) < len(classes):
        return None
    scored = (1,) if len(classes) == 2 else classes
    return float(np.mean([score(target == c, probabilities[:, c]) for c in scored]))


def _calibration_error(target: Integers, probabilities: Floats) -> float:
    bins = reliability_bins(target, probabilities)
    filled = bins.samples > 0
    return float(np.average(np.abs(bins.accuracy - bins.confidence)[filled], weights=bins.samples[filled]))
