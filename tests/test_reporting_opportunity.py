"""Table 3 and its pictures: what is expected of which run; generated data never stand in for OPPORTUNITY."""

import io
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import confusion_matrix, f1_score

from golden.fakes import fake_facts, fake_name, fake_plan, fake_result, fake_runs, write_predictions, write_run
from golden.opportunity import NAMES, fake_recognition, write_opportunity
from golden.tcga import runs_of
from multimodal_loss.datasets.opportunity_channels import TASKS, label_track
from multimodal_loss.errors import UserError
from multimodal_loss.report import main, report
from multimodal_loss.reporting.analysis.fill import fill
from multimodal_loss.reporting.analysis.findings import findings
from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.figures import activities
from multimodal_loss.reporting.figures.activities import (
    Recognition,
    confusion_figure,
    display_order,
    f1_figure,
    input_figure,
    longest_recording,
    mean_f1,
    recognition,
    segments,
    timeline_figure,
)
from multimodal_loss.reporting.figures.base import Picture
from multimodal_loss.reporting.figures.tables import comparison_figure
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.base import Layout, Overrides
from multimodal_loss.results.collect import read_predictions, read_run
from multimodal_loss.results.metrics import class_f1, compute_metrics, confusion_counts
from test_reporting_page import Page

LAYOUTS = all_layouts()
TABLES = ("table_3", "table_3_samples", "quick_table_3")
PICTURES = ("f1", "devices", "confusion", "timeline", "reliability", "training")
NOTICE = "QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY"


def quiet() -> Console:
    return Console(file=io.StringIO(), width=110)


def overrides_of(name: str, row: str, task: str = "locomotion") -> Overrides:
    cells = LAYOUTS[name].cells
    return next(cell.run for cell in cells if cell.row == row and cell.column.startswith(task))


# The cells


def test_table_3_has_every_number_of_the_paper_and_mulmix_as_an_extension() -> None:
    layout = LAYOUTS["table_3"]
    keys = {cell.paper for cell in layout.cells}
    assert keys == {name for name in paper_numbers() if name[0] == "3"} and len(keys) == 64
    places = {(cell.row, cell.column): cell for cell in layout.cells}
    assert set(places) == {(row.key, column.key) for row in layout.rows for column in layout.columns}
    for (row, column), cell in places.items():
        task, metric = column.split("/")
        assert f"dataset.task={task}" in cell.run and cell.metric == f"test/fused/{metric}"
        assert cell.paper == ("3", row, column) and "experiment=table_3" in cell.run
    assert "extension" in next(row.title for row in layout.rows if row.key == "late/mulmix")
    number = paper_numbers()["3", "late/mulmix", "gestures/ACC"]
    assert number.mean is None and "not run by the paper" in number.note


def test_sample_wise_scores_are_of_the_same_runs_and_beside_no_number_of_the_paper() -> None:
    windows, samples = LAYOUTS["table_3"], LAYOUTS["table_3_samples"]
    assert runs_of(samples) == runs_of(windows)
    assert {cell.metric for cell in samples.cells} == {f"test_samples/fused/{m}" for m in ("ACC", "FM", "FW", "MCC")}
    assert all(cell.paper is None for cell in (*samples.cells, *LAYOUTS["quick_table_3"].cells))


@pytest.mark.parametrize(
    ("profile", "dataset", "generated", "fingerprint", "reason"),
    [
        ("quick", "opportunity_like", True, "generated-0a", "profile quick"),
        ("full", "opportunity_like", True, "generated-0a", "dataset opportunity_like"),
        ("full", "opportunity", True, "0a", "generated data"),
        ("full", "opportunity", None, "generated-0a", "generated data"),
    ],
)
@pytest.mark.parametrize("name", ["table_3", "table_3_samples"])
def test_a_run_of_generated_data_under_a_name_of_table_3_fills_nothing(
    tmp_path: Path, name: str, profile: str, dataset: str, generated: bool | None, fingerprint: str, reason: str
) -> None:
    overrides = overrides_of(name, "late/multimodal")
    result = fake_result([0.9] * 5, NAMES, profile=profile)
    result["config"]["facts"] = fake_facts(dataset)
    result["dataset"]["generated"] = generated
    result["replicates"][3]["data_fingerprint"] = fingerprint
    for replicate in result["replicates"]:
        replicate["metrics"]["test_samples"] = replicate["metrics"]["test"]
    write_run(tmp_path / fake_name(overrides), result)
    cells = fill(LAYOUTS[name], fake_runs(tmp_path)).cells.values()
    assert all(cell.n == 0 and cell.run is None for cell in cells)
    assert reason in next(cell.note for cell in cells if cell.cell.run == overrides)


def test_the_quick_table_takes_runs_of_generated_data_alone(tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_3"]
    write_opportunity(tmp_path, layout, predictions=False)
    assert all(cell.state == "complete" for cell in fill(layout, fake_runs(tmp_path)).cells.values())
    for run in tmp_path.iterdir():
        result = json.loads((run / "result.json").read_text())
        result["config"]["facts"]["dataset"]["name"] = "opportunity"
        write_run(run, result)
    assert not fill(layout, fake_runs(tmp_path)).has_values


def test_the_quick_page_says_everywhere_that_its_data_are_generated(tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_3"]
    write_opportunity(tmp_path / "runs", layout)
    page = report(tmp_path / "runs", tmp_path / "out", [layout.name], plan=fake_plan, console=quiet()).read_text()
    assert f'<p class="banner">{NOTICE}.' in page and "2 seeds" not in page
    assert f"<h2>{NOTICE}" in page and "<h3>Generated data, not OPPORTUNITY</h3>" in page
    assert "numbers of Moon and Lee" in page and "computed again" not in page
    for file in (tmp_path / "out").glob("quick_table_3.[mt]*"):
        assert NOTICE in file.read_text()
    assert '<section id="table_3' not in page and "paper 8" not in page
    Page(page)
    with pytest.raises(UserError, match="--tables quick_table_3"):
        report(tmp_path / "runs", tmp_path / "out", [layout.name], tmp_path / "results", fake_plan, quiet())
    full = report(tmp_path / "runs", tmp_path / "full", plan=fake_plan, console=quiet()).read_text()
    assert "generated data</h2>" in full and "<h2>Table 3" not in full
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("names", [["quick_table_3", "table_3"], ["quick", "quick_table_3"]])
def test_the_quick_profile_is_reported_alone(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--tables", *names]) == 2
    assert not list(tmp_path.iterdir())


def test_pictures_of_generated_data_carry_the_notice(tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_3"]
    write_opportunity(tmp_path, layout)
    found = findings(layout.conditions[0], layout, fake_runs(tmp_path))
    assert found and len(found.pictures) == len(PICTURES)
    for picture in found.pictures:
        assert NOTICE in [text.get_text() for text in picture.figure.texts]


# Counting


@given(st.integers(2, 6), st.data())
@settings(max_examples=150, deadline=None)
def test_confusion_and_f1_are_scikit_learns(classes: int, data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 12))
    one = st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples)
    target, predicted = (np.array(data.draw(one)) for _ in range(2))
    counts = confusion_counts(target, predicted, classes)
    np.testing.assert_array_equal(counts, confusion_matrix(target, predicted, labels=range(classes)))
    expected = f1_score(target, predicted, labels=range(classes), average=None, zero_division=np.nan)
    np.testing.assert_allclose(class_f1(counts), expected)
    metrics = compute_metrics(target, np.eye(classes)[predicted])
    assert np.nanmean(class_f1(counts)) == pytest.approx(metrics["FM"])
    np.testing.assert_array_equal(class_f1(np.stack([counts, counts])), np.stack([class_f1(counts)] * 2))


def test_small_integers_do_not_overflow() -> None:
    target = np.array([17, 17, 0], dtype=np.uint8)
    assert confusion_counts(target, np.array([17, 3, 0]), 18)[17, [17, 3]].tolist() == [1, 1]


def test_a_class_counts_for_the_replicates_in_which_it_occurs() -> None:
    counts = np.array(
        [[[2, 0, 0], [1, 3, 0], [0, 0, 0]], [[1, 1, 0], [0, 4, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 1], [0, 0, 0]]]
    )
    mean, deviation = mean_f1(counts)
    every = [2 * c[1, 1] / (c[1].sum() + c[:, 1].sum()) for c in counts]
    assert mean[1] == pytest.approx(statistics.fmean(every)) and deviation[1] == pytest.approx(statistics.stdev(every))
    assert mean[2] == 0.0 and np.isnan(deviation[2])  # predicted once, in the last replicate
    assert np.isnan(mean_f1(counts[:2])[0][2])
    assert np.isnan(mean_f1(counts[:1])[1]).all()


def recognised(
    tmp_path: Path, row: str, arrays: dict[str, NDArray[Any]], task: str = "gestures", **dataset: Any
) -> Any:
    """What is read back from a run of `row` with these predictions."""
    condition = next(one for one in LAYOUTS["table_3"].conditions if one.key.endswith(task))
    shown = next(one for one in condition.shown if one.key == row.replace("/", "_"))
    result = fake_result([0.9] * 5, [*NAMES, *NAMES][: arrays["0/modalities"].shape[1]])
    result["dataset"] |= {"classes": names_of_classes(task)} | dataset
    result["dataset"] |= {"seconds_per_prediction": 0.4}
    result["config"]["facts"] = fake_facts("opportunity", row)
    run = write_run(tmp_path / row.replace("/", "-"), result)
    write_predictions(run, arrays)
    return recognition(shown, read_run(run))


def names_of_classes(task: str) -> list[str]:
    return list(label_track(TASKS[task][1])[1])


def heat(ax: Axes) -> NDArray[Any]:
    return np.ma.filled(np.ma.asarray(ax.images[0].get_array(), dtype=float), np.nan)


def labels(ax: Axes) -> tuple[list[str], list[str]]:
    return [t.get_text() for t in ax.get_yticklabels()], [t.get_text() for t in ax.get_xticklabels()]


@pytest.mark.parametrize("task", ["gestures", "locomotion"])
def test_the_heat_map_is_each_devices_own_f1_inside_the_late_model(tmp_path: Path, task: str) -> None:
    arrays = fake_recognition(task, 19, 4.0, windows=1600, replicates=3)
    one = recognised(tmp_path, "late/multimodal", arrays, task)
    ax = input_figure([one]).axes[0]
    names = names_of_classes(task)
    rows, columns = labels(ax)
    assert rows == [*NAMES, "fused"] and columns == [*names[1:], "Null"]

    def expected(part: str, m: int | None) -> NDArray[Any]:
        every = []
        for r in range(3):
            p = arrays[f"{r}/{part}"] if m is None else arrays[f"{r}/{part}"][:, m]
            target, taken = arrays[f"{r}/target"], p.argmax(axis=1)
            every.append(f1_score(target, taken, labels=range(len(names)), average=None, zero_division=np.nan))
        return np.roll(np.nanmean(every, axis=0), -1)

    drawn = heat(ax)
    for m in (0, 7, 18):
        np.testing.assert_allclose(drawn[m], expected("modalities", m))
    np.testing.assert_allclose(drawn[19], expected("fused", None))
    assert len(np.unique(drawn[:19], axis=0)) > 10
    numbers = {text.get_text() for text in ax.texts}
    assert f"{100 * drawn[7, 0]:.0f}" in numbers and len(ax.texts) == np.isfinite(drawn).sum()


def test_a_class_that_never_occurs_is_left_blank(tmp_path: Path) -> None:
    arrays = fake_recognition("locomotion", 2, 3.0, windows=60, replicates=2)
    for r in range(2):  # nobody lies down, and nobody is taken for it
        arrays[f"{r}/target"] = np.where(arrays[f"{r}/target"] == 4, 0, arrays[f"{r}/target"])
        for part in ("fused", "modalities"):
            kept = arrays[f"{r}/{part}"].copy()
            kept[..., 4] = 0
            arrays[f"{r}/{part}"] = kept / kept.sum(axis=-1, keepdims=True)
    one = recognised(tmp_path, "late/sum_ce", arrays, "locomotion")
    lying = labels(input_figure([one]).axes[0])[1].index("Lie")
    assert np.isnan(heat(input_figure([one]).axes[0])[:, lying]).all()
    assert np.isnan(heat(confusion_figure([one]).axes[0])[lying]).all()
    f1_figure([one]).canvas.draw()


def test_confusion_matrices_pool_the_seeds_and_sum_to_one(tmp_path: Path) -> None:
    arrays = fake_recognition("gestures", 1, 2.0, windows=1500, replicates=3)
    one = recognised(tmp_path, "early", arrays)
    target = np.concatenate([arrays[f"{r}/target"] for r in range(3)])
    taken = np.concatenate([arrays[f"{r}/fused"].argmax(1) for r in range(3)])
    expected = confusion_matrix(target, taken, labels=[*range(1, 18), 0], normalize="true")
    drawn = heat(confusion_figure([one]).axes[0])
    np.testing.assert_allclose(drawn, expected)
    np.testing.assert_allclose(drawn.sum(axis=1), 1)


def test_the_f1_of_each_class_has_a_mark_per_method(tmp_path: Path) -> None:
    rows = ("early", "late/sum_ce", "late/multimodal")
    every = [
        recognised(tmp_path, row, fake_recognition("locomotion", 2, 2.0 + i, 80, 3), "locomotion")
        for i, row in enumerate(rows)
    ]
    ax = f1_figure(every).axes[0]
    containers: list[Any] = list(ax.containers)
    drawn = {container.get_label(): container.lines for container in containers}
    assert list(drawn) == ["Early fusion", "SUM + CE", "MultiModal"]
    line, _, (bars,) = drawn["SUM + CE"]
    mean, deviation = mean_f1(every[1].fused)
    assert np.asarray(line.get_xdata()) == pytest.approx(np.roll(mean, -1))
    ends = [[point[0] for point in path.vertices] for path in bars.get_paths()]
    assert np.diff(ends)[:, 0] == pytest.approx(2 * np.roll(deviation, -1))
    colours = {str(lines[0].get_color()) for lines in drawn.values()}
    assert len(colours) == 3


def test_null_stands_last_wherever_it_is() -> None:
    assert display_order(["Null", "Stand", "Walk"]) == [1, 2, 0]
    assert display_order(["a", "Null", "b"]) == [0, 2, 1]
    assert display_order(["a", "b"]) == [0, 1]


# The timeline


@given(st.lists(st.integers(0, 3), max_size=40))
def test_segments_are_runs_of_equal_classes(classes: list[int]) -> None:
    found = segments(np.array(classes, dtype=np.int64))
    expected = [(value, len(list(group))) for value, group in itertools.groupby(classes)]
    assert [(value, end - start) for start, end, value in found] == expected
    assert [start for start, *_ in found] == [0, *(end for _, end, _ in found)][: len(found)]


def drawn_classes(ax: Axes, lane: int, colours: dict[Any, int], at: list[float]) -> list[int | None]:
    """The class whose bar lies at each place of a lane; None where none does."""
    (bars,) = [one for one in ax.collections if isinstance(one, PolyCollection) and _middle(one.get_paths()[0]) == lane]
    edges = [np.asarray(path.vertices)[:, 0] for path in bars.get_paths()]
    spans = [(one.min(), one.max()) for one in edges]
    classes = [colours[tuple(face)] for face in np.atleast_2d(bars.get_facecolor())]
    return [next((c for (low, high), c in zip(spans, classes, strict=True) if low < x < high), None) for x in at]


def _middle(path: Any) -> int:
    return round(float(path.vertices[:, 1].min() + path.vertices[:, 1].max()) / 2)


@pytest.mark.parametrize(("seconds", "scale"), [(0.4, 0.4 / 60), (None, 1.0)])
def test_the_timeline_shows_each_windows_class_at_its_time(seconds: float | None, scale: float) -> None:
    names = ["Null", "Stand", "Walk", "Sit", "Lie"]
    generator = np.random.default_rng(3)
    lanes = {"true": np.repeat(generator.integers(0, 5, 10), 5), "A": generator.integers(0, 5, 50)}
    figure = timeline_figure(lanes, names, seconds, per_strip=20)
    assert len(figure.axes) == 3
    legend = {patch.get_label(): patch.get_facecolor() for patch in figure.legends[0].get_patches()}
    assert list(legend) == ["Stand", "Walk", "Sit", "Lie", "Null"] and len(set(legend.values())) == 5
    colours = {to_rgba(colour): names.index(str(name)) for name, colour in legend.items()}
    for strip, ax in enumerate(figure.axes):
        windows = range(20 * strip, min(20 * strip + 20, 50))
        for place, (title, classes) in enumerate(lanes.items()):
            centres = [(w + 0.5) * scale for w in windows]
            assert drawn_classes(ax, place, colours, centres) == classes[list(windows)].tolist()
            assert labels(ax)[0][place] == title
        assert ax.get_xlim() == pytest.approx((20 * strip * scale, (20 * strip + 20) * scale))
        assert ax.get_ylim()[0] > ax.get_ylim()[1], "the true classes are on top"


def test_eighteen_classes_have_eighteen_colours() -> None:
    names = names_of_classes("gestures")
    figure = timeline_figure({"true": np.arange(18)}, names, 0.4, per_strip=900)
    patches = figure.legends[0].get_patches()
    assert len({patch.get_facecolor() for patch in patches}) == len(patches) == 18


RECORDINGS = [["S2-ADL4", 30], ["S2-ADL5", 50], ["S3-ADL4", 40], ["S3-ADL5", 30]]


def test_the_longest_recording_is_cut_out_of_the_windows(tmp_path: Path) -> None:
    arrays = fake_recognition("locomotion", 3, 2.0, windows=150, replicates=2)
    one = recognised(tmp_path, "late/multimodal", arrays, "locomotion", recordings=RECORDINGS)
    assert longest_recording(one) == ("S2-ADL5", 30, 50)
    assert one.seconds == pytest.approx(0.4)
    assert np.array_equal(one.predicted, arrays["0/fused"].argmax(axis=1)) and one.replicate == "0"


@pytest.mark.parametrize(
    "recordings",
    [
        None,
        "S2",
        [],
        [["S2-ADL4", 149]],
        [["S2-ADL4", 100], ["S2-ADL5", 100], ["S3-ADL4", -50]],
        [["S2-ADL4", "150"]],
        [["S2-ADL4", True], ["S2-ADL5", 149]],
        [["S2-ADL4"], ["x", 150]],
        {"S2-ADL4": 150},
        [150],
    ],
)
def test_without_sound_recordings_all_windows_are_one(tmp_path: Path, recordings: Any) -> None:
    arrays = fake_recognition("locomotion", 3, 2.0, windows=150, replicates=1)
    one = recognised(tmp_path, "late/multimodal", arrays, "locomotion", recordings=recordings)
    assert longest_recording(one) == ("the test recordings", 0, 150)


@pytest.mark.parametrize(("stated", "seconds"), [(0.4, 0.4), (None, None), ("0.4", None), (0, None), (True, None)])
def test_the_time_between_windows_is_known_or_not_claimed(tmp_path: Path, stated: Any, seconds: float | None) -> None:
    result = fake_result([0.9])
    result["dataset"]["seconds_per_prediction"] = stated
    assert activities._seconds(read_run(write_run(tmp_path / "run", result))) == seconds


# The whole report


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/, report/ and results/ of Table 3, of which one run is missing."""
    folder = tmp_path_factory.mktemp("opportunity")
    without = [overrides_of("table_3", "late/nn_ce", "gestures")]
    write_opportunity(folder / "runs", LAYOUTS["table_3"], without=without)
    console = quiet()
    report(folder / "runs", folder / "report", (), folder / "results", plan=fake_plan, console=console)
    assert isinstance(console.file, io.StringIO)
    (folder / "screen.txt").write_text(console.file.getvalue())
    return folder


def section(built: Path, name: str) -> str:
    page = (built / "report" / "index.html").read_text()
    return page[page.index(f'<section id="{name}">') :].partition("</section>")[0]


def test_the_page_shows_both_tasks_beside_the_paper(built: Path) -> None:
    text = section(built, "table_3")
    assert "60 of 64 cells are complete" in text and "paper 65.01 ± 1.40" in text
    assert "not run by the paper: 2^19-1 mixtures" in text and "Mulmix (extension)" in text
    assert text.index("<h3>Locomotion</h3>") < text.index("<h3>Gestures</h3>")
    for word in (
        "F1 of each class",
        "Which device carries which activity",
        "Confusion matrices",
        "Timeline of S2-ADL4",
    ):
        assert text.count(f"<strong>{word}.</strong>") == 2
    assert text.count("Calibration: ") == 2 and text.count("<td>fused</td>") == 6 + 5 and "<td>acc_hip</td>" not in text
    assert "dataset.task=gestures method=late_nn_ce" in text and "make reproduce-table-3" in text
    assert "GENERATED" not in (built / "report" / "index.html").read_text()
    Page((built / "report" / "index.html").read_text())
    names = {path.stem for path in (built / "report" / "figures").iterdir()}
    assert names == {"table_3_overview"} | {f"{p}_table_3_{t}" for p in PICTURES for t in ("locomotion", "gestures")}


def test_sample_wise_scores_stand_beside_those_of_windows(built: Path) -> None:
    layouts = LAYOUTS["table_3"], LAYOUTS["table_3_samples"]
    windows, samples = (fill(layout, fake_runs(built / "runs")) for layout in layouts)
    first, second = (t.cells["late/multimodal", c] for t, c in zip((windows, samples), columns(), strict=True))
    assert first.mean is not None and second.mean == pytest.approx(first.mean - 1)
    text = section(built, "table_3_samples")
    assert "60 of 64 cells are complete" in text and "paper 8" not in text and "<figure>" not in text
    assert f"{second.mean:.2f}" in text


def columns() -> tuple[str, str]:
    return "gestures/MCC", "gestures/samples/MCC"


def test_what_is_committed(built: Path) -> None:
    folder = built / "results" / "table_3"
    shown = {f"{p}_table_3_{t}.png" for p in PICTURES[:4] for t in ("locomotion", "gestures")}
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "cells.csv",
        "environment.json",
        "modalities.csv",
        "overview.png",
        *shown,
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
    devices = (folder / "modalities.csv").read_text().splitlines()
    # Two joint runs and six late ones of 19 devices with the fused prediction, less one run; five seeds.
    assert len(devices) == 1 + 5 * (2 * (2 + 6 * 20) - 20)
    assert {path.name for path in (built / "results" / "table_3_samples").iterdir()} == {
        "README.md",
        "cells.csv",
        "environment.json",
    }


def test_the_overview_gives_each_metric_its_own_axis(built: Path) -> None:
    table = fill(LAYOUTS["table_3"], fake_runs(built / "runs"))
    figure = comparison_figure(table)
    metrics = ("ACC", "FM", "MCC")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [f"{task} {metric}" for task in ("Locomotion", "Gestures") for metric in metrics]
    assert not figure.axes[0].get_shared_x_axes().joined(figure.axes[0], figure.axes[1])


def test_the_terminal_leaves_weighted_f1_out(built: Path) -> None:
    screen = (built / "screen.txt").read_text()
    assert "Gestures" in screen and " FW" not in screen and max(map(len, screen.splitlines())) <= 110


def test_without_runs_table_3_is_named_with_its_command(tmp_path: Path) -> None:
    page = report(tmp_path / "none", tmp_path / "report", plan=fake_plan, console=quiet()).read_text()
    absent = page[page.index("Not computed yet</h2>") :]
    assert "Table 3: activities" in absent and "make reproduce-table-3" in absent and "quick" not in absent


# Predictions that are not what they should be


def change(run: Path, **arrays: NDArray[Any] | None) -> None:
    """Stored predictions with some arrays replaced, or dropped; `_` in a name stands for `/`."""
    stored: dict[str, NDArray[Any]] = dict(np.load(run / "predictions.npz"))
    for name, array in arrays.items():
        stored.pop(name.removeprefix("r").replace("_", "/"))
        if array is not None:
            stored[name.removeprefix("r").replace("_", "/")] = array
    write_predictions(run, stored)


def small_table(tmp_path: Path) -> tuple[Layout, Path]:
    """Runs of the quick profile with two kinds of fusion."""
    layout = LAYOUTS["quick_table_3"]
    kept = [overrides_of("quick_table_3", row) for row in ("early", "late/sum_ce", "late/multimodal")]
    write_opportunity(tmp_path / "runs", layout, 60, [one for one in runs_of(layout) if one not in kept])
    return layout, tmp_path / "runs" / fake_name(overrides_of("quick_table_3", "late/multimodal"))


def pictures_of(tmp_path: Path, layout: Layout) -> set[str]:
    report(tmp_path / "runs", tmp_path / "report", [layout.name], plan=fake_plan, console=quiet())
    return {path.name.partition("_quick")[0] for path in (tmp_path / "report" / "figures").iterdir()}


def test_damaged_predictions_leave_the_table_and_the_curves(tmp_path: Path) -> None:
    layout, _ = small_table(tmp_path)
    for run in (tmp_path / "runs").iterdir():
        (run / "predictions.npz").write_bytes(b"PK\x03\x04 cut")
    assert pictures_of(tmp_path, layout) == {"training"}
    assert "24 of 64 cells are complete" in (tmp_path / "report" / "index.html").read_text()


def test_without_a_late_run_there_is_no_heat_map(tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_3"]
    late = [one for one in runs_of(layout) if "method=late" in str(one)]
    write_opportunity(tmp_path / "runs", layout, 60, late, recordings=False)
    assert pictures_of(tmp_path, layout) == set(PICTURES) - {"devices"}
    assert "Timeline of the test recordings" in (tmp_path / "report" / "index.html").read_text()


def drawn(layout: Layout, runs: Path) -> dict[str, Picture]:
    found = findings(layout.conditions[0], layout, fake_runs(runs))
    assert found is not None
    return {picture.name.partition("_quick")[0]: picture for picture in found.pictures}


def panels(picture: Picture) -> list[str]:
    return [title for ax in picture.figure.axes if (title := ax.get_title(loc="left"))]


@pytest.mark.parametrize("damage", ["nan", "float target", "other classes", "no modalities"])
def test_an_unsound_run_is_left_out_of_the_pictures(tmp_path: Path, damage: str) -> None:
    layout, run = small_table(tmp_path)
    arrays = fake_recognition("locomotion", 19, 3.0, windows=60, replicates=1)
    assert panels(drawn(layout, tmp_path / "runs")["devices"]) == ["MultiModal", "SUM + CE"]
    if damage == "nan":
        change(run, r0_modalities=np.full_like(arrays["0/modalities"], np.nan))
    elif damage == "float target":
        change(run, r0_target=arrays["0/target"].astype(np.float64))
    elif damage == "other classes":
        other = fake_recognition("gestures", 19, 3.0, windows=60, replicates=1)
        change(run, **{f"r0_{part}": other[f"0/{part}"] for part in ("target", "fused", "modalities")})
    else:
        change(run, r0_modalities=None)
    pictures = drawn(layout, tmp_path / "runs")
    assert set(pictures) == set(PICTURES)
    assert panels(pictures["devices"]) == ["SUM + CE"]
    assert panels(pictures["confusion"]) == ["Early fusion", "SUM + CE"]


def test_a_run_of_other_windows_is_no_lane_of_the_timeline(tmp_path: Path) -> None:
    layout, run = small_table(tmp_path)
    lanes = ["true", "Early fusion", "SUM + CE", "MultiModal"]
    assert labels(drawn(layout, tmp_path / "runs")["timeline"].figure.axes[0])[0] == lanes
    arrays = fake_recognition("locomotion", 19, 3.0, windows=40, replicates=1)
    change(run, **{f"r0_{part}": arrays[f"0/{part}"] for part in ("target", "fused", "modalities")})
    pictures = drawn(layout, tmp_path / "runs")
    assert labels(pictures["timeline"].figure.axes[0])[0] == lanes[:3]
    assert panels(pictures["confusion"]) == lanes[1:]


def test_replicates_that_differ_in_shape_are_not_mixed(tmp_path: Path) -> None:
    arrays = fake_recognition("locomotion", 3, 2.0, windows=40, replicates=2)
    other = fake_recognition("gestures", 3, 2.0, windows=40, replicates=1)
    arrays |= {f"2/{part}": other[f"0/{part}"] for part in ("target", "fused", "modalities")}
    run = write_run(tmp_path / "run", fake_result([0.9] * 3))
    write_predictions(run, arrays)
    assert {key.partition("/")[0] for key in read_predictions(read_run(run))} == {"0", "1"}


def test_replicates_count_in_numerical_order(tmp_path: Path) -> None:
    arrays = fake_recognition("locomotion", 2, 2.0, windows=40, replicates=1)
    renamed = {f"{r}/{key.partition('/')[2]}": array for r in (10, 2) for key, array in arrays.items()}
    one = recognised(tmp_path, "late/sum_ce", arrays | renamed, "locomotion")
    assert isinstance(one, Recognition) and one.replicate == "0" and len(one.fused) == 3
    assert one.inputs == tuple(NAMES[:2])
