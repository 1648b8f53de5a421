"""Figures: the numbers that are drawn, and that drawing works at the edges."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from golden.fakes import fake_predictions
from golden.regenerate import filled
from multimodal_loss.reporting.figures import runs as figures
from multimodal_loss.reporting.figures.base import Line, save
from multimodal_loss.reporting.figures.tables import comparison_figure
from multimodal_loss.results.metrics import reliability_bins


def test_shares_pool_the_replicates_and_sum_to_one() -> None:
    predictions = {
        "0/target": np.array([0, 1]),
        "0/modalities": np.array([[[0.95, 0.05]], [[0.95, 0.05]]]),
        "1/target": np.array([0, 0, 0]),
        "1/modalities": np.array([[[0.95, 0.05]]] * 3),
    }
    shares = figures.true_class_shares(predictions, ["m1"])
    assert list(shares) == ["m1"]
    assert shares["m1"].tolist() == pytest.approx([0.2, 0, 0, 0, 0, 0, 0, 0, 0, 0.8])


def test_figure_4_of_one_run_draws_every_modality() -> None:
    figure = figures.true_class_figure(fake_predictions([(0.86, 0.54, 0.54, 0.87)] * 2), ["m1", "m2", "m3"])
    ax = figure.axes[0]
    assert len(ax.patches) == 3 * 10
    heights = np.array([patch.get_height() for patch in ax.patches]).reshape(3, 10)
    assert heights.sum(axis=1) == pytest.approx(1)


def test_figure_4_of_many_modalities_is_a_heat_map() -> None:
    names = [f"device {i}" for i in range(19)]
    figure = figures.true_class_figure(fake_predictions([(0.7,) * 19 + (0.9,)]), names)
    assert figure.axes[0].images[0].get_array().shape == (19, 10)
    assert save(figure, "png").startswith(b"\x89PNG")


def test_figure_4_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        figures.true_class_figure({}, [])
    with pytest.raises(ValueError, match="2 names for 3 modalities"):
        figures.true_class_figure(fake_predictions([(0.8, 0.8, 0.8, 0.9)]), ["a", "b"])


def test_the_same_figure_is_the_same_file() -> None:
    predictions = fake_predictions([(0.86, 0.54, 0.9)])
    first, second = (save(figures.true_class_figure(predictions, ["a", "b"]), "svg") for _ in range(2))
    assert first == second
    assert b"<svg" in first


def test_training_curves_hold_a_stopped_replicate_at_its_last_loss() -> None:
    short = (np.array([1.0, 2.0]), np.array([0.8, 0.4]))
    long = (np.array([1.0, 2.0, 3.0]), np.array([0.6, 0.4, 0.2]))
    figure = figures.training_figure({Line("MultiModal", "#D55E00"): {0: short, 1: long}})
    mean = figure.axes[0].lines[-1]
    assert np.asarray(mean.get_ydata()) == pytest.approx([0.7, 0.4, 0.3])
    assert figure.axes[0].get_yscale() == "log"


def test_training_curves_with_a_loss_of_zero_are_drawn_on_a_plain_axis() -> None:
    curve = (np.array([1.0, 2.0]), np.array([0.8, 0.0]))
    figure = figures.training_figure({Line("SUM", "#0072B2"): {0: curve}})
    assert figure.axes[0].get_yscale() == "linear"
    assert b"<svg" in save(figure, "svg")


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    epochs = np.arange(1.0, 31_001.0)
    kept = epochs[figures._thinned(epochs)]
    assert len(kept) <= figures.POINTS_PER_CURVE
    assert (kept[0], kept[-1]) == (1, 31_000)


def test_reliability_draws_a_panel_per_source_and_leaves_rare_bins_out() -> None:
    target = np.array([0] * 2000)
    sure = np.tile([0.99, 0.01], (2000, 1))
    sure[0] = [0.6, 0.4]
    bins = reliability_bins(target, sure)
    figure = figures.reliability_figure({"m1": {Line("SUM", "#0072B2"): bins}, "fused": {Line("SUM", "#0072B2"): bins}})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["m1", "fused"]
    assert len(figure.axes[0].lines[1].get_xdata()) == 1
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(1) and max(heights) == pytest.approx(1999 / 2000)
    error = abs(0.99 - 1) * 1999 / 2000 + abs(0.6 - 1) / 2000
    assert f"ECE {100 * error:.1f} %" in figure.axes[0].texts[0].get_text()
    assert figures.reliability_alt({"m1": {Line("SUM", "#0072B2"): bins}}).endswith(f"SUM, m1 {100 * error:.1f} %.")


def test_reliability_of_many_methods_has_a_panel_for_each_fused_prediction() -> None:
    bins = reliability_bins(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    methods = [Line(f"method {i}", "#0072B2") for i in range(figures.MOST_METHODS + 1)]
    alone = Line("m1 alone", "#0072B2")
    sources = {"m1": dict.fromkeys([*methods, alone], bins), "fused": dict.fromkeys(methods, bins)}
    figure = figures.reliability_figure(sources)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [line.label for line in [*methods, alone]]


def test_the_overview_makes_a_panel_per_row_of_a_wide_table() -> None:
    figure = comparison_figure(filled())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Noise, none", "Noise, two"]
    assert save(figure, "png").startswith(b"\x89PNG")


def test_powers_of_ten_on_an_axis_are_numbers_and_not_formulas() -> None:
    figure = Figure()
    ax = figure.add_subplot(xscale="log", yscale="log")
    ax.plot([1e-3, 1e4], [2.0, 5.0])
    assert b"mathdefault" not in save(figure, "svg")
    assert "1000" in [label.get_text() for label in ax.get_xticklabels()]
