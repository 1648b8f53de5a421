"""Metrics against hand-computed values, literal loops over the definitions, and scikit-learn."""

import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from multimodal_loss.results.metrics import (
    METRICS,
    RANKING_METRICS,
    SMALLEST_PROBABILITY,
    compute_metrics,
    reliability_bins,
    true_class_histogram,
)


def random_predictions(samples: int, classes: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, samples)
    target[:classes] = np.arange(classes)
    scores = generator.normal(size=(samples, classes)) + 1.5 * np.eye(classes)[target]
    probabilities = np.exp(scores)
    return target, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_hand_computed_values() -> None:
    target = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    result = compute_metrics(target, probabilities)
    assert result["ACC"] == 0.75
    # class 0: precision 1, recall 1/2; class 1: precision 2/3, recall 1
    assert result["FM"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result["FW"] == result["FM"]
    assert result["MCC"] == pytest.approx((2 * 1 - 0 * 1) / math.sqrt(3 * 2 * 1 * 2))
    assert result["AUC"] == 1.0
    assert result["AP"] == 1.0
    assert result["NLL"] == pytest.approx(-sum(math.log(p) for p in (0.9, 0.4, 0.8, 0.7)) / 4)
    assert result["Brier"] == pytest.approx(2 * (0.1**2 + 0.6**2 + 0.2**2 + 0.3**2) / 4)
    # every sample sits in a bin of its own: |1 - .9|, |0 - .6|, |1 - .8|, |1 - .7|
    assert result["ECE"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    assert result["confidence_gap"] == pytest.approx((0.9 + 0.6 + 0.8 + 0.7) / 4 - 0.75)
    expected_entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in (0.9, 0.4, 0.2, 0.3)) / 4
    assert result["entropy"] == pytest.approx(expected_entropy)
    assert tuple(result) == METRICS


@pytest.mark.parametrize("classes", [2, 5])
def test_against_scikit_learn_and_loops(classes: int) -> None:
    target, p = random_predictions(400, classes)
    result = compute_metrics(target, p)
    predicted = p.argmax(axis=1)
    ranked = p[:, 1] if classes == 2 else p
    assert result["FM"] == pytest.approx(sk.f1_score(target, predicted, average="macro"))
    assert result["FW"] == pytest.approx(sk.f1_score(target, predicted, average="weighted"))
    assert result["MCC"] == pytest.approx(sk.matthews_corrcoef(target, predicted))
    assert result["AUC"] == pytest.approx(sk.roc_auc_score(target, ranked, multi_class="ovr", average="macro"))
    positives = target if classes == 2 else np.eye(classes)[target]
    assert result["AP"] == pytest.approx(sk.average_precision_score(positives, ranked, average="macro"))
    for average in ("weighted", "micro"):
        auc = sk.roc_auc_score(target, ranked, multi_class="ovr", average=average)
        assert result[f"AUC_{average}"] == pytest.approx(auc)
        assert result[f"AP_{average}"] == pytest.approx(sk.average_precision_score(positives, ranked, average=average))
    assert result["NLL"] == pytest.approx(sk.log_loss(target, p))
    brier = sum((p[i, c] - (target[i] == c)) ** 2 for i in range(400) for c in range(classes)) / 400
    assert result["Brier"] == pytest.approx(brier)

    error = 0.0
    for b in range(15):
        inside = [i for i in range(400) if b / 15 < p[i].max() <= (b + 1) / 15]
        if inside:
            accuracy = sum(predicted[i] == target[i] for i in inside) / len(inside)
            confidence = sum(p[i].max() for i in inside) / len(inside)
            error += len(inside) / 400 * abs(accuracy - confidence)
    assert result["ECE"] == pytest.approx(error)


def test_float32_probabilities_give_the_float64_answer_without_warnings() -> None:
    target, p = random_predictions(200, 34)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = compute_metrics(target, p.astype(np.float32))
    double = compute_metrics(target, p)
    assert single == pytest.approx(double, rel=1e-5)


def test_certain_and_right() -> None:
    target = np.array([0, 1, 2, 1])
    result = compute_metrics(target, np.eye(3)[target])
    assert [result[m] for m in ("ACC", "FM", "FW", "MCC", "AUC", "AP")] == [1.0] * 6
    assert [result[m] for m in ("NLL", "Brier", "ECE", "entropy", "confidence_gap")] == [0.0] * 5


def test_certain_and_wrong_is_finite() -> None:
    result = compute_metrics(np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert result["NLL"] == pytest.approx(-math.log(SMALLEST_PROBABILITY))
    assert result["Brier"] == 2.0
    assert result["ECE"] == 1.0
    assert result["confidence_gap"] == 1.0
    assert result["MCC"] == -1.0


def test_all_equal_probabilities() -> None:
    target = np.array([0, 1, 2, 3, 3])
    result = compute_metrics(target, np.full((5, 4), 0.25))
    assert result["ACC"] == 0.2  # the first class is predicted for all
    assert result["MCC"] == 0.0
    assert result["AUC"] == 0.5
    assert result["NLL"] == pytest.approx(math.log(4))
    assert result["entropy"] == pytest.approx(math.log(4))


def test_class_absent_from_the_target_leaves_ranking_undefined() -> None:
    _, p = random_predictions(20, 3)
    result = compute_metrics(np.arange(20) % 2, p)
    assert result["AUC"] is None
    assert result["AP"] is None
    undefined = {name for name, value in result.items() if value is None}
    assert undefined == {"AUC", "AUC_weighted", "AP", "AP_weighted"}
    one_hot = np.eye(3)[np.arange(20) % 2]
    assert result["AUC_micro"] == pytest.approx(sk.roc_auc_score(one_hot.ravel(), p.ravel()))
    assert result["AP_micro"] == pytest.approx(sk.average_precision_score(one_hot.ravel(), p.ravel()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_class = compute_metrics(np.zeros(4, dtype=int), np.tile([0.7, 0.3], (4, 1)))
    assert [one_class[name] for name in RANKING_METRICS] == [None] * 6
    assert one_class["MCC"] == 0.0


@pytest.mark.parametrize("classes", [2, 4])
def test_ranking_with_equal_scores_is_scikit_learns(classes: int) -> None:
    """Eighths, which sum to 1 exactly: most samples share their score with others, of other classes too."""
    target, p = random_predictions(300, classes, seed=3)
    p = np.random.default_rng(0).multinomial(8, p) / 8
    result = compute_metrics(target, p)
    ranked, one_hot = (p[:, 1], target) if classes == 2 else (p, np.eye(classes)[target])
    for average in ("macro", "weighted", "micro"):
        suffix = "" if average == "macro" else f"_{average}"
        auc = sk.roc_auc_score(one_hot, ranked, average=average)
        assert result[f"AUC{suffix}"] == pytest.approx(auc)
        assert result[f"AP{suffix}"] == pytest.approx(sk.average_precision_score(one_hot, ranked, average=average))


@pytest.mark.parametrize("classes", [2, 5])
def test_saturated_outputs_are_ranked_as_they_are_stored(classes: int) -> None:
    """Thousands of rows hold 1 in float32 and sum to a little more: dividing by the sums would part these ties."""
    generator = np.random.default_rng(1)
    target = generator.integers(0, classes, 2000)
    scores = generator.normal(scale=12, size=(2000, classes)) + 10 * np.eye(classes)[target]
    exponential = np.exp(scores - scores.max(axis=1, keepdims=True)).astype(np.float32)
    stored = exponential / exponential.sum(axis=1, keepdims=True)
    result = compute_metrics(target, stored)
    ranked, one_hot = (stored[:, 1], target) if classes == 2 else (stored, np.eye(classes)[target])
    for average in ("macro", "weighted", "micro"):
        suffix = "" if average == "macro" else f"_{average}"
        assert result[f"AUC{suffix}"] == pytest.approx(sk.roc_auc_score(one_hot, ranked, average=average), abs=1e-12)
        expected = sk.average_precision_score(one_hot, ranked, average=average)
        assert result[f"AP{suffix}"] == pytest.approx(expected, abs=1e-12)


def test_two_classes_have_one_auc_and_one_ap_whatever_the_average() -> None:
    result = compute_metrics(*random_predictions(100, 2))
    for metric in ("AUC", "AP"):
        assert result[metric] == result[f"{metric}_weighted"] == result[f"{metric}_micro"]


def test_many_modalities_and_classes_are_scored_in_time() -> None:
    """19 modalities of 18 classes on 9,894 samples take two seconds; the limit leaves room for a busy machine."""
    target, p = random_predictions(9_894, 18)
    start = time.process_time()
    for _ in range(3):
        compute_metrics(target, p)
    assert (time.process_time() - start) / 3 * 19 < 6


@pytest.mark.parametrize(
    ("target", "probabilities"),
    [
        (np.array([0, 1]), np.ones((3, 2)) / 2),
        (np.array([0, 2]), np.ones((2, 2)) / 2),
        (np.array([-1, 0]), np.ones((2, 2)) / 2),
        (np.array([0]), np.array([[np.nan, 1.0]])),
        (np.array([0]), np.array([[2.0, -1.0]])),
        (np.array([0]), np.array([[3.0, 1.0]])),
        (np.array([], dtype=int), np.ones((0, 2))),
        (np.array([0]), np.ones((1, 1))),
    ],
)
def test_what_is_no_prediction_is_refused(target: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError):
        compute_metrics(target, probabilities)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    classes = draw(st.integers(2, 5))
    samples = draw(st.integers(1, 12))
    target = draw(st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples))
    weight = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    rows = st.lists(weight, min_size=classes, max_size=classes).filter(lambda row: sum(row) > 0)
    raw = np.array(draw(st.lists(rows, min_size=samples, max_size=samples)))
    return np.array(target), raw / raw.sum(axis=1, keepdims=True)


@settings(max_examples=150, deadline=None)
@given(predictions())
def test_ranges(case: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    target, p = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compute_metrics(target, p)
    classes = p.shape[1]
    tiny = 1e-9
    limits = {
        "MCC": (-1, 1),
        "NLL": (0, 28),
        "Brier": (0, 2),
        "entropy": (0, math.log(classes)),
        "confidence_gap": (-1, 1),
    }
    for name, value in result.items():
        low, high = limits.get(name, (0, 1))
        assert value is None or low - tiny <= value <= high + tiny, name
    assert result["ECE"] is not None and result["confidence_gap"] is not None
    assert result["ECE"] >= abs(result["confidence_gap"]) - tiny
    bins = reliability_bins(target, p)
    assert bins.samples.sum() == len(target)
    shares = true_class_histogram(target, np.stack([p, p[:, ::-1]], axis=1))
    assert shares.shape == (2, 10)
    assert np.allclose(shares.sum(axis=1), 1)


def test_reliability_bins_of_known_samples() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.55, 0.45], [0.6, 0.4]])
    bins = reliability_bins(np.array([0, 0, 0, 1]), probabilities, bins=5)
    assert bins.samples.tolist() == [0, 0, 2, 0, 2]  # 0.6 closes the third bin
    assert bins.accuracy[2] == 0.5 and bins.accuracy[4] == 0.5
    assert bins.confidence[2] == pytest.approx(0.575) and bins.confidence[4] == 1.0
    assert np.isnan(bins.accuracy[0])


def test_true_class_histogram_of_known_samples() -> None:
    probabilities = np.array([[[0.05, 0.95], [0.5, 0.5]], [[0.0, 1.0], [0.35, 0.65]]])
    shares = true_class_histogram(np.array([0, 1]), probabilities)
    assert shares[0].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]  # 0.05, and 1.0 in the closed last bin
    assert shares[1].tolist() == [0, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0]
