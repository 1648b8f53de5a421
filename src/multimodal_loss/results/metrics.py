"""Metrics of one set of predictions: how often right, and how honest the probabilities are.

Everything is a fraction (accuracy 0.864, not 86.4); tables turn fractions into percent. A metric that is undefined for
the data at hand is None, never NaN, so that it survives JSON.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

RANKING_METRICS = ("AUC", "AUC_weighted", "AUC_micro", "AP", "AP_weighted", "AP_micro")
METRICS = ("ACC", "FM", "FW", "MCC", *RANKING_METRICS, "NLL", "Brier", "ECE", "entropy", "confidence_gap")
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
    AUC, AP    area under the ROC curve and average precision, one class against the rest: the plain mean over classes
               (macro); None if a class is absent from the target
    AUC_weighted, AP_weighted  the same, each class weighted by its share of the samples; None if a class is absent
    AUC_micro, AP_micro  of all N * C decisions "is this sample of this class" pooled; defined where a class is absent
               For two classes all three averages are those of class 1 alone, as scikit-learn has it for binary targets
               (the micro average of both columns would differ), and all None if a class is absent.
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
    occurring = np.union1d(target, predicted)
    f1 = f1_score(target, predicted, labels=occurring, average=None, zero_division=0)
    one_hot = np.eye(probabilities.shape[1])[target]
    true_class = np.take_along_axis(probabilities, target[:, None], axis=1)
    return {
        "ACC": accuracy,
        "FM": float(f1.mean()),
        "FW": float(np.average(f1, weights=np.bincount(target, minlength=probabilities.shape[1])[occurring])),
        "MCC": _matthews(target, predicted),
        **_rankings(one_hot.astype(bool), probabilities),
        "NLL": float(np.log(1 / np.maximum(true_class, SMALLEST_PROBABILITY)).mean()),
        "Brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "ECE": _calibration_error(target, probabilities),
        "entropy": float(np.mean(entropy(probabilities, axis=1))),
        "confidence_gap": float(probabilities.max(axis=1).mean()) - accuracy,
    }


def fit_temperature(target: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """The T > 0, from e^-3 to e^3, whose `tempered` probabilities (N, C) have the least NLL; one number for all
    classes (Guo et al., ICML 2017).
    """
    target, probabilities = _checked(target, probabilities)
    logits = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        true_class = np.take_along_axis(scaled, target[:, None], axis=1)[:, 0]
        return float(np.mean(logsumexp(scaled, axis=1) - true_class))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def tempered(probabilities: NDArray[np.floating], temperature: float) -> Floats:
    """softmax(ln p / T) of probabilities (N, C): the same predictions, more or less sure of them."""
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY))
    return np.asarray(softmax(logits / temperature, axis=1))


def was_replaced(replaced: NDArray[np.integer], modalities: int) -> NDArray[np.bool_]:
    """Which modalities of which samples were (N, M), from `replaced` (N,): the modality of each that was, or -1."""
    return np.asarray(replaced[:, None] == np.arange(modalities))


def distrust_auc(weights: NDArray[np.floating], replaced: NDArray[np.integer]) -> float | None:
    """Does trust follow noise? Area under the ROC curve of "this modality was replaced" by how little it is trusted,
    over all modalities of all samples: 0.5 is chance, at 1 every one that was replaced is trusted less than any other.

    `weights` (N, M); `replaced` (N,) the modality of each sample that was, or -1. None where none was, or each.
    """
    which = was_replaced(replaced, weights.shape[1])
    if not which.any() or which.all():
        return None
    return _auc_and_ap(which.ravel(), -np.asarray(weights, dtype=np.float64).ravel())[0]


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


def confusion_counts(target: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Integers:
    """(C, C): how many samples of a row's class were taken for a column's, from class indices (N,) both."""
    return np.asarray(confusion_matrix(target, predicted, labels=range(classes)))


def class_f1(confusion: NDArray[np.integer]) -> Floats:
    """F1 of each class, (..., C), from counts (..., C, C) as `confusion_counts` gives them.

    NaN for a class that occurs neither in targets nor in predictions; the mean over the others is FM.
    """
    occurrences = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    undefined = np.full(right.shape, np.nan)
    return np.asarray(np.divide(2.0 * right, occurrences, out=undefined, where=occurrences > 0))


def are_probabilities(values: NDArray[np.floating]) -> bool:
    """Whether the last axis holds probabilities; half-precision rows are off by up to C * 2^-9. NaN is none."""
    return bool(np.all(values >= 0) and np.all(np.abs(values.sum(axis=-1) - 1) < 0.02))


def _checked(
    target: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Both as 64-bit arrays, or ValueError.

    What is stored is what is scored: rows that rounding left off 1 by 1e-7 stay so, since dividing by their sums would
    reorder saturated outputs.
    """
    target, stored = np.asarray(target), np.asarray(probabilities, dtype=np.float64)
    if target.ndim != 1 or stored.ndim != 2 or len(target) != len(stored):
        raise ValueError(f"expected target (N,) and probabilities (N, C), got {target.shape} and {stored.shape}")
    if len(target) == 0 or stored.shape[1] < 2:
        raise ValueError(f"at least one sample and two classes are needed, got probabilities {stored.shape}")
    if target.min() < 0 or target.max() >= stored.shape[1]:
        raise ValueError(f"targets {target.min()} to {target.max()} do not fit {stored.shape[1]} classes")
    if not are_probabilities(stored):
        raise ValueError("probabilities must be non-negative and sum to 1 in each row")
    return target.astype(np.int64), stored


def _matthews(target: Integers, predicted: Integers) -> float:
    if len(np.unique(np.concatenate([target, predicted]))) == 1:
        return 0.0  # scikit-learn says the same, with a warning
    return float(matthews_corrcoef(target, predicted))


def _rankings(one_hot: NDArray[np.bool_], probabilities: Floats) -> dict[str, float | None]:
    """`RANKING_METRICS`, from the classes (N, C) and their probabilities."""
    shares = one_hot.mean(axis=0)
    complete = bool(np.all(shares > 0))
    if one_hot.shape[1] == 2:
        binary = _auc_and_ap(one_hot[:, 1], probabilities[:, 1]) if complete else (None, None)
        return dict(zip(RANKING_METRICS, [score for score in binary for _ in range(3)], strict=True))
    micro = _auc_and_ap(one_hot.ravel(), probabilities.ravel())
    found: list[float | None] = [None, None, micro[0], None, None, micro[1]]
    if complete:
        scores = np.array([_auc_and_ap(y, p) for y, p in zip(one_hot.T, probabilities.T, strict=True)])
        (found[0], found[3]), (found[1], found[4]) = scores.mean(axis=0).tolist(), (shares @ scores).tolist()
    return dict(zip(RANKING_METRICS, found, strict=True))


def _auc_and_ap(positive: NDArray[np.bool_], score: Floats) -> tuple[float, float]:
    """Area under the ROC curve and average precision, for (N,) with at least one positive and one negative.

    scikit-learn's values from one sort in a tenth of its time: with 19 modalities and 18 classes that is seconds.
    """
    order = np.argsort(-score)
    ranked = score[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # equal scores fall together
    true = np.cumsum(positive[order])[ends]
    flagged = ends + 1
    false = flagged - true
    gained = np.diff(true, prepend=0) / true[-1]
    missed = 1 - (false - np.diff(false, prepend=0) / 2) / false[-1]  # negatives below; half of those that tie
    return float(gained @ missed), float(gained @ (true / flagged))


def _calibration_error(target: Integers, probabilities: Floats) -> float:
    bins = reliability_bins(target, probabilities)
    filled = bins.samples > 0
    return float(np.average(np.abs(bins.accuracy - bins.confidence)[filled], weights=bins.samples[filled]))
