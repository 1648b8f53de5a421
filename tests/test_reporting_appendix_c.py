"""Appendix C: which proxies are used, what is drawn, and the pictures without umap-learn."""

import importlib.util
import io
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from golden.fakes import fake_name, fake_outputs, fake_plan, write_predictions
from golden.tcga import write_tcga
from multimodal_loss import MultiModalLoss
from multimodal_loss.report import report
from multimodal_loss.reporting.figures.base import save
from multimodal_loss.reporting.figures.embedding import embed
from multimodal_loss.reporting.figures.proxies import cloud, cloud_panels, is_used, nearest_proxy, subgroup_figure
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.tcga import NOTHING_STORED
from multimodal_loss.results.collect import Outputs

LAYOUTS = all_layouts()
LAYOUT = LAYOUTS["appendix_c_tcga_kipan"]
CLASSES = 4


def outputs(classes: int = CLASSES, **changes: Any) -> Outputs:
    arrays = {key.partition("/")[2]: array for key, array in fake_outputs(classes, replicates=1).items()}
    del arrays["fused"]
    return Outputs(**(arrays | changes))


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # importing it raises ImportError


@pytest.fixture
def asked_umap(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """In umap-learn's place: collects what it is asked, and puts the first two columns into the plane."""
    asked: list[dict[str, Any]] = []

    class UMAP:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def fit_transform(self, rows: Any) -> Any:
            return rows[:, :2]

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    return asked


def test_used_proxies_are_those_that_the_loss_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    loss = MultiModalLoss(num_classes=3, num_modalities=2, proxies_per_class=6)
    scores = torch.rand(50, 2, 3, generator=generator).softmax(-1)
    target = torch.randint(0, 3, (50,), generator=generator)
    proxies = torch.nn.functional.normalize(loss.proxies.detach().clamp(min=0).flatten(2), dim=2).view_as(loss.proxies)
    stored = outputs(
        3,
        proxies=proxies.numpy(),
        train_target=target.numpy(),
        train_modalities=scores.numpy(),
    )
    assert is_used(stored).sum(axis=1).tolist() == loss.proxy_diagnostics(scores, target)["used"]


def test_the_made_up_subgroups_are_found() -> None:
    stored = outputs()
    nearest = nearest_proxy(stored, stored.modalities, stored.target)
    assert nearest.tolist() == [i % 2 for i in range(60)]
    assert is_used(stored).tolist() == [[True, True, False, False]] * CLASSES


def test_a_cloud_holds_all_kinds_without_dead_proxies(no_umap: None) -> None:
    every = cloud(outputs(), None, most=1000)
    assert [int(every.of(kind).sum()) for kind in ("train", "test", "proxy")] == [120, 60, 3 * CLASSES]
    assert every.used.tolist() == [True, True, False] * CLASSES
    one = cloud(outputs(), 2, most=1000)
    assert set(one.label.tolist()) == {2}
    assert [int(one.of(kind).sum()) for kind in ("train", "test", "proxy")] == [30, 14, 3]


def test_a_cloud_is_capped_in_proportion_and_keeps_all_proxies(no_umap: None) -> None:
    capped = cloud(outputs(), None, most=45)
    assert [int(capped.of(kind).sum()) for kind in ("train", "test", "proxy")] == [30, 15, 12]
    again = cloud(outputs(), None, most=45)
    assert np.array_equal(capped.embedding.points, again.embedding.points)


def test_without_umap_the_principal_axes_are_drawn_and_named(no_umap: None) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 6)) * [9, 5, 1, 1, 1, 1] @ np.linalg.qr(generator.normal(size=(6, 6)))[0]
    embedding = embed(rows)
    assert "PCA" in embedding.method and "not installed" in embedding.method
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    assert embedding.points.var(axis=0, ddof=1) == pytest.approx(eigenvalues[:2])


def test_umap_is_asked_with_a_seed_and_not_for_few_points(asked_umap: list[dict[str, Any]]) -> None:
    rows = np.random.default_rng(0).random((100, 8))
    assert embed(rows, seed=3).method == "UMAP"
    assert asked_umap[0]["random_state"] == 3
    assert "too few" in embed(rows[:20]).method
    assert len(asked_umap) == 1


def test_equal_rows_can_be_drawn(no_umap: None) -> None:
    assert np.allclose(embed(np.ones((40, 5))).points, 0)


def test_subgroups_show_proxies_and_their_test_samples() -> None:
    stored = outputs()
    figure = subgroup_figure(stored, 1, ["GE", "DM"], ["a", "b", "c", "d"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        *("proxy 1", "mean of its 8 test samples of 16"),
        *("proxy 2", "mean of its 8 test samples of 16"),
    ]
    heights = np.array([patch.get_height() for patch in figure.axes[1].patches]).reshape(2, 4)
    own = stored.modalities[(stored.target == 1) & (np.arange(60) % 2 == 0)]
    assert heights == pytest.approx(own.mean(axis=0), rel=1e-5)
    scaled = np.array([patch.get_height() for patch in figure.axes[0].patches])
    assert scaled.sum() == pytest.approx(2)


def test_more_classes_than_test_samples_are_drawn(no_umap: None) -> None:
    stored = outputs(34)
    figure = cloud_panels({"all": cloud(stored, None, 1000)}, [f"class {c}" for c in range(34)])
    assert len(figure.axes[0].texts) == 30  # the classes that the 60 test samples have
    assert save(figure, "svg").startswith(b"<?xml")
    empty = subgroup_figure(stored, 33, ["GE", "DM"], [str(c) for c in range(34)])
    assert save(empty, "png").startswith(b"\x89PNG")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=110)


def test_the_page_shows_appendix_c_and_names_the_fallback(tmp_path: Path, no_umap: None) -> None:
    write_tcga(tmp_path / "runs", LAYOUT)
    page = report(tmp_path / "runs", tmp_path / "report", [LAYOUT.name], tmp_path / "results", fake_plan, quiet())
    text = page.read_text()
    assert "Concatenated outputs and proxies: two principal axes (PCA), as umap-learn is not installed" in text
    assert "Subgroups of class type 0" in text and "variant" in text
    assert "2.0 ± 0.0" in text and 'aria-label="Proxies"' in text
    assert 'aria-label="Calibration"' not in text
    names = {"appendix_c_outputs.png", "appendix_c_subgroups.png", "appendix_c_variants.png"}
    assert {path.name for path in (tmp_path / "results" / LAYOUT.name).iterdir()} == {
        *names,
        "README.md",
        "cells.csv",
        "environment.json",
    }
    assert sum(path.stat().st_size for path in (tmp_path / "report" / "figures").iterdir()) < 3_000_000


def test_runs_that_stored_nothing_say_how_to_get_the_pictures(tmp_path: Path, no_umap: None) -> None:
    write_tcga(tmp_path / "runs", LAYOUT)
    for run in (tmp_path / "runs").iterdir():
        (run / "predictions.npz").write_bytes(b"PK\x03\x04")
    page = report(tmp_path / "runs", tmp_path / "report", [LAYOUT.name], plan=fake_plan, console=quiet())
    assert NOTHING_STORED in page.read_text()
    assert "27 of 27 cells are complete" in page.read_text()
    assert not (tmp_path / "report" / "figures").exists()


def test_variants_are_drawn_without_the_full_loss(tmp_path: Path, no_umap: None) -> None:
    write_tcga(tmp_path / "runs", LAYOUT)
    broken = fake_outputs(CLASSES, 5) | {"0/proxies": np.zeros((1, 1, 1, 1))}
    write_predictions(tmp_path / "runs" / fake_name(LAYOUT.cells[0].run), broken)
    report(tmp_path / "runs", tmp_path / "report", [LAYOUT.name], plan=fake_plan, console=quiet())
    drawn = [path.name for path in (tmp_path / "report" / "figures").iterdir()]
    assert drawn == [f"variants_{LAYOUT.name}.svg"]


def test_umap_itself_gives_the_same_points_for_the_same_seed() -> None:
    """In a process of its own, interpreted: compiling it would take half a minute."""
    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap-learn is an extra")
    code = """
import numpy as np
from multimodal_loss.reporting.figures import embedding
embedding.EPOCHS = 5
rows = np.random.default_rng(0).random((40, 6))
first, second = embedding.embed(rows), embedding.embed(rows)
assert first.method == "UMAP" and np.isfinite(first.points).all() and first.points.std() > 0
assert np.array_equal(first.points, second.points)
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
