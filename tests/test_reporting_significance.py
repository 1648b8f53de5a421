"""Which differences are real: the two tests against hand-computed and published values, and the words made of them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from golden.fakes import fake_predictions, fake_result, named_plan, write_predictions, write_run
from multimodal_loss.reporting.analysis import significance
from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable, Runs, fill
from multimodal_loss.reporting.analysis.significance import Comparison, compare, corrected_t_test, holm
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row
from multimodal_loss.results.collect import read_runs


def test_nadeau_and_bengio_by_hand() -> None:
    # Mean 3, sample variance 2.5; with k = 5 and one test sample for four training samples t = 3 / sqrt(0.45 * 2.5).
    t, p = corrected_t_test([1, 2, 3, 4, 5], 1 / 4)
    assert t == pytest.approx(2.8284271247)
    # With 4 degrees of freedom Student's two-sided tail is 1 - s (3 - s^2) / 2, s = t / sqrt(4 + t^2).
    s = t / math.sqrt(4 + t * t)
    assert p == pytest.approx(1 - s * (3 - s * s) / 2)
    assert 0.02 < p < 0.05  # the tables' critical values are 3.747 and 2.776


def test_without_overlap_it_is_the_paired_t_test() -> None:
    first, second = np.array([0.91, 0.93, 0.9, 0.95]), np.array([0.9, 0.9, 0.91, 0.91])
    expected = stats.ttest_rel(first, second)
    assert corrected_t_test((first - second).tolist(), 0.0) == pytest.approx((expected.statistic, expected.pvalue))
    assert corrected_t_test((first - second).tolist(), 0.25)[1] > expected.pvalue


def test_differences_without_spread() -> None:
    assert corrected_t_test([0.0, 0.0, 0.0], 0.25) == (0.0, 1.0)
    assert corrected_t_test([-2.0, -2.0], 0.25) == (-math.inf, 0.0)
    with pytest.raises(ValueError):
        corrected_t_test([1.0], 0.25)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 * .005, 3 * .01, 2 * .03, then not below it
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_against_known_values(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_as_the_step_down_procedure_does(p_values: list[float], level: float) -> None:
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - step) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


def sentence(comparisons: list[Comparison]) -> str:
    return significance.sentence(comparisons, "MultiModal")


LAYOUT = Layout(
    *("t", "t", "t", "t"),
    rows=tuple(Row(name, name) for name in ("MultiModal", "other", "third")),
    columns=(Column("ACC", "ACC"),),
    cells=tuple(Cell(name, "ACC", (name,)) for name in ("MultiModal", "other", "third")),
    compared="ACC",
)


def write(folder: Path, name: str, accuracies: list[float], sizes: object) -> None:
    result = fake_result(accuracies)
    result["dataset"]["sizes"] = sizes
    for replicate in result["replicates"]:
        replicate["fold"] = replicate["replicate_id"]
    write_run(folder / name, result)


def filled(folder: Path) -> FilledTable:
    return fill(LAYOUT, Runs(read_runs(folder), named_plan))


def test_every_pair_is_tested_fold_by_fold(tmp_path: Path) -> None:
    sizes = {"train": 400, "test": 100}
    write(tmp_path, "MultiModal", [0.95, 0.96, 0.97, 0.96, 0.95], sizes)
    write(tmp_path, "other", [0.90, 0.92, 0.91, 0.92], sizes)
    write(tmp_path, "third", [0.95, 0.97, 0.96, 0.95, 0.97], sizes)
    found = compare(filled(tmp_path))
    assert [(c.first, c.second, c.folds) for c in found] == [
        ("MultiModal", "other", 4),
        ("MultiModal", "third", 5),
        ("other", "third", 4),
    ]
    t, p = corrected_t_test([5.0, 4.0, 6.0, 4.0], 0.25)
    assert (found[0].difference, found[0].t, found[0].p) == pytest.approx((4.75, t, p))
    assert [c.p_holm for c in found] == holm([c.p for c in found])


@pytest.mark.parametrize("sizes", [None, {"train": 0, "test": 10}, {"train": "400", "test": 100}, [1, 2]])
def test_a_run_that_does_not_say_its_sizes_is_left_out(tmp_path: Path, sizes: object) -> None:
    write(tmp_path, "MultiModal", [0.95, 0.96], sizes)
    write(tmp_path, "other", [0.90, 0.92], {"train": 400, "test": 100})
    assert compare(filled(tmp_path)) == []


def test_only_folds_with_the_same_test_samples_are_paired(tmp_path: Path) -> None:
    """Runs on other modalities have other fingerprints, and the same classes in their test parts."""
    accuracies = {"MultiModal": [0.95, 0.96, 0.97], "other": [0.9, 0.92, 0.91], "third": [0.9, 0.91, 0.92]}
    for number, (name, values) in enumerate(accuracies.items()):
        write(tmp_path, name, values, {"train": 400, "test": 100})
        file = tmp_path / name / "result.json"
        file.write_text(file.read_text().replace("0a1b2c", f"print {number}"))
        arrays = fake_predictions([[0.9, 0.9]] * 3, samples=20)
        if name == "other":
            arrays["2/target"] = arrays["2/target"][::-1]
        if name == "third":
            arrays = {key: value for key, value in arrays.items() if not key.startswith("0/")}
            arrays["1/target"] = 1 - arrays["1/target"]
        write_predictions(tmp_path / name, arrays)
    assert [(c.first, c.second, c.folds) for c in compare(filled(tmp_path))] == [("MultiModal", "other", 2)]


def test_draws_of_the_data_are_compared_by_the_paired_t_test() -> None:
    """The cells alone say it, whatever runs they are of; one that lacks a draw waits for it."""
    names = ("MultiModal", "other", "third", "begun")
    layout = replace(
        LAYOUT,
        cells=tuple(Cell(name, "ACC", over=tuple((draw, "x") for draw in range(100, 105))) for name in names),
        against=("MultiModal",),
    )
    draws = range(100, 105)
    values = (
        (86.4, 84.1, 88.0, 85.2, 86.0),
        (80.0, 83.0, 84.9, 80.1, 70.0),
        (86.0, 85.0, 88.5, 85.0, 86.0),
        (1.0, 2.0),
    )
    cells = {
        (c.row, c.column): FilledCell(
            c, "complete" if len(of_row) == 5 else "partial", dict(zip(draws, of_row, strict=False)), tuple(draws)
        )
        for c, of_row in zip(layout.cells, values, strict=True)
    }
    found = compare(FilledTable(layout, cells))
    assert [(c.first, c.second, c.folds) for c in found] == [("MultiModal", "other", 5), ("MultiModal", "third", 5)]
    expected = stats.ttest_rel(values[0], values[1])
    assert (found[0].t, found[0].p) == pytest.approx((expected.statistic, expected.pvalue))
    text = significance.sentence(found, "MultiModal", draws=True)
    assert "(paired t-test over 5 draws, Holm's correction for all pairs, 5 % level)" in text


def test_one_fold_or_no_run_is_not_tested(tmp_path: Path) -> None:
    write(tmp_path, "MultiModal", [0.95], {"train": 400, "test": 100})
    write(tmp_path, "other", [0.90, 0.92], {"train": 400, "test": 100})
    assert compare(filled(tmp_path)) == []
    assert sentence([]) == ""


def comparison(first: str, second: str, difference: float, p_holm: float) -> Comparison:
    return Comparison(first, second, 5, difference, 3.0, 0.001, p_holm)


def test_the_sentence_says_above_below_and_what_could_be_chance() -> None:
    text = sentence(
        [
            comparison("SUM", "MultiModal, full", -2.0, 0.01),
            comparison("MultiModal, full", "Ensemble", -1.0, 0.049),
            comparison("MultiModal, full", "NN", 3.0, 0.05),
            comparison("SUM", "NN", 1.0, 0.001),
        ]
    )
    assert text.startswith("3 of 4 differences in ACC between two methods are significant")
    assert "MultiModal is above SUM and below Ensemble." in text
    assert text.endswith("MultiModal's difference from NN could be chance.")


def test_many_rows_that_could_be_chance_are_counted_and_a_few_are_named() -> None:
    def open_to(*others: str) -> str:
        return sentence([comparison("MultiModal", other, 1.0, 0.5) for other in others])

    assert open_to("a", "b", "c").endswith("MultiModal's difference from a; b; c could be chance.")
    assert open_to("a", "b", "c", "d").endswith("MultiModal's difference from each of the 4 others could be chance.")


def test_comparisons_survive_the_way_through_csv(tmp_path: Path) -> None:
    written = [comparison("a, b", 'c "d"', -1.25, 0.01), Comparison("e", "f", 2, 1.0, math.inf, 0.0, 0.0)]
    assert significance.from_csv(significance.to_csv(written)) == written
    with pytest.raises((KeyError, ValueError)):
        significance.from_csv("first,second\na,b\n")


def test_several_rows_of_the_method_in_question_are_named_each() -> None:
    """As in one's own runs, where it is trained with two backbones."""

    def compared(first: str, second: str, difference: float, p: float) -> Comparison:
        return Comparison(first, second, 5, difference, 1.0, p, p)

    text = sentence(
        [
            compared("Linear, MultiModal", "Linear, SUM", 1.0, 0.01),
            compared("Linear, SUM", "MLP, MultiModal", 1.0, 0.01),
            compared("Linear, MultiModal", "MLP, SUM", 1.0, 0.5),
            compared("MLP, MultiModal", "MLP, SUM", 1.0, 0.5),
            compared("Linear, MultiModal", "MLP, MultiModal", 1.0, 0.01),
        ]
    )
    assert text.endswith(
        "). Linear, MultiModal is above Linear, SUM. MLP, MultiModal is below Linear, SUM. "
        "2 further differences of MultiModal could be chance."
    )
