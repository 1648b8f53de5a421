"""Table 4, its quick profile, and the table on frozen features: cells, the paper's numbers, pictures, what is said."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from golden.fakes import fake_facts, fake_name, fake_plan, fake_result, write_curves, write_predictions, write_run
from golden.tcga import runs_of
from multimodal_loss.configuration import planned_run
from multimodal_loss.report import report
from multimodal_loss.reporting.analysis.fill import Runs, fill
from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.base import Layout
from multimodal_loss.reporting.layouts.epic import fused_against_alone
from multimodal_loss.results.collect import read_runs
from multimodal_loss.results.metrics import compute_metrics

LAYOUTS = all_layouts()
VERBS = ["take", "put", "wash", "open", "close", "insert", "turn-on", "cut"]
DATASETS = {"table_4": "epic", "table_4_frozen": "epic_features", "quick_table_4": "epic_like"}


def write_runs(folder: Path, layout: Layout, ours: float = 0.9, replicates: int = 2) -> None:
    """Every run, right in so many of 80 test clips; the fused methods but MultiModal in 40 %, each modality in 50."""
    for overrides in runs_of(layout):
        method = overrides[1].partition("=")[2]
        alone = method.startswith("unimodal")
        right = ours if method == "multimodal" else 0.5 if alone else 0.4
        names = ["rgb" if method == "unimodal_1" else "flow"] if alone else ["rgb", "flow"]
        target = np.arange(80) % 8
        taken = np.where(np.arange(80) < 80 * right, target, (target + 1) % 8)
        fused = (np.full((80, 8), 0.02) + 0.84 * np.eye(8)[taken]).astype(np.float32)
        result = fake_result([0.0] * replicates, names, inputs=names, profile=layout.profile)
        for one in result["replicates"]:
            metrics = compute_metrics(target, fused)
            one["metrics"] = {"test": {"fused": metrics, "modalities": {name: metrics for name in names}}}
        result["config"] |= {"dataset": {}, "facts": fake_facts(layout.dataset, method, "x_norm")}
        generated = layout.profile == "quick"
        result["dataset"] |= {"name": layout.dataset, "generated": generated, "classes": VERBS}
        run = write_run(folder / fake_name(overrides), result)
        write_curves(run, replicates, epochs=10)
        arrays = {"target": target, "fused": fused, "modalities": np.stack([fused] * len(names), axis=1)}
        write_predictions(run, {f"{r}/{name}": array for r in range(replicates) for name, array in arrays.items()})


def test_every_number_of_the_paper_is_beside_a_cell_of_table_4_alone() -> None:
    published = {key for key in paper_numbers() if key[0] == "4"}
    cells = LAYOUTS["table_4"].cells
    assert {cell.paper for cell in cells} == published and len(cells) == len(published)
    assert all(cell.paper is None for name in ("table_4_frozen", "quick_table_4") for cell in LAYOUTS[name].cells)
    places = {(cell.paper[1], cell.run[1]) for cell in cells if cell.paper}
    assert ("i3d_rgb", "method=unimodal_1") in places and ("sum_ce", "method=sum_ce_logits") in places
    assert {cell.metric for cell in cells} == {f"test/fused/{metric}" for metric in ("ACC", "FM", "FW", "MCC")}


@pytest.mark.parametrize(("name", "dataset"), DATASETS.items())
def test_the_cells_compose_to_runs_of_the_dataset(name: str, dataset: str) -> None:
    planned = [planned_run(run) for run in runs_of(LAYOUTS[name])]
    assert len({one.hash for one in planned}) == 9
    assert {one.facts["dataset"]["name"] for one in planned} == {dataset} == {LAYOUTS[name].dataset}
    assert {one.replicates for one in planned} == {(0,) if name.startswith("quick") else tuple(range(5))}


def test_the_settings_are_the_original_trainings() -> None:
    from multimodal_loss.configuration import RunConfig, compose_config

    run = RunConfig.parse(compose_config(["experiment=table_4", "method=weighted_sum_ce_30_70"]))
    trainer = run.trainer
    assert (trainer.batch_size, trainer.max_epochs, trainer.patience, trainer.clip_norm) == (32, 50, 5, 1.0)
    assert trainer.drop_last is True
    assert (trainer.monitor, trainer.keep, trainer.amp) == ("validation_loss", "validation_ACC", False)
    assert run.optimizer["_target_"] == "torch.optim.AdamW"
    assert (run.optimizer["lr"], run.optimizer["weight_decay"]) == (1e-4, 1e-4)
    assert run.scheduler is not None and (run.scheduler["factor"], run.scheduler["patience"]) == (0.5, 10)
    assert run.fusion["weights"] == [0.3, 0.7] and run.fusion_input == "logits" and run.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("ours", "said"), [(0.9, "is among them"), (0.45, "is NOT among them")])
def test_the_page_says_whether_fusing_beats_each_modality_alone(ours: float, said: str, tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_4"]
    write_runs(tmp_path, layout, ours)
    table = fill(layout, Runs(read_runs(tmp_path), fake_plan))
    assert fused_against_alone(table) == (
        f"{int(ours > 0.5)} of 7 fused methods have a higher mean accuracy than both modalities alone "
        f"(I3D RGB 50.0, I3D flow 50.0); MultiModal, with {100 * ours:.1f}, {said}."
    )


def test_nothing_is_said_before_these_runs_are_there(tmp_path: Path) -> None:
    assert fused_against_alone(fill(LAYOUTS["table_4"], Runs(read_runs(tmp_path), fake_plan))) == ""


def test_the_page_of_generated_clips(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", LAYOUTS["quick_table_4"])
    console = Console(quiet=True)
    page = report(tmp_path / "runs", tmp_path / "out", ["quick_table_4"], plan=fake_plan, console=console).read_text()
    assert "NOT EPIC-KITCHENS" in page and "MultiModal, with 90.0, is among them" in page
    for word in ("F1 of each class", "Which modality carries which verb", "Confusion matrices", "Figure 4", "Training"):
        assert f"<strong>{word}" in page
    assert "Pairs of methods compared" not in page and "Timeline" not in page and "paper 71" not in page
    for picture in ("f1", "modalities", "confusion", "figure_4"):
        svg = (tmp_path / "out" / "figures" / f"{picture}_quick_table_4.svg").read_text()
        assert "NOT EPIC-KITCHENS" in svg.replace("\n", " ") or "<!-- QUICK" in svg


def test_generated_features_never_fill_the_frozen_table(tmp_path: Path) -> None:
    layout = LAYOUTS["table_4_frozen"]
    write_runs(tmp_path, layout)
    assert fill(layout, Runs(read_runs(tmp_path), fake_plan)).has_values
    for run in read_runs(tmp_path):
        result = {**run.result, "dataset": {**run.result["dataset"], "generated": True}}
        write_run(run.path, result)
    assert not fill(layout, Runs(read_runs(tmp_path), fake_plan)).has_values
