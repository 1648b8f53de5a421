"""Training and evaluating where samples lack modalities: dataset.missing=mask, and a split's mask on every path."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from multimodal_loss import ReadOut, load_run
from multimodal_loss.backbones import MLP
from multimodal_loss.configuration import TrainerConfig, compose_config
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.datasets.tables import TablesDataset
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import OGMGE, Fusion, MMPareto, MultiModalLoss, Multitask, SumCrossEntropy
from multimodal_loss.reporting.figures.runs import replicate_figures, true_class_shares
from multimodal_loss.results.collect import read_predictions, read_run
from multimodal_loss.training.collapsed import CollapsedTrainer
from multimodal_loss.training.evaluate import Validation, evaluate
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.replicate import Recipe, Replicate, make_replicate
from multimodal_loss.training.run import run

CPU = torch.device("cpu")
SAMPLES = 24


def split(garbage: float) -> Split:
    """Of three modalities, some missing; `garbage` stands where they are."""
    generator = torch.Generator().manual_seed(3)
    target = torch.arange(SAMPLES) % 3
    inputs = [torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64) for width in (4, 6, 3)]
    mask = torch.rand(SAMPLES, 3, generator=generator) > 0.4
    mask[~mask.any(dim=1), 1] = True
    for m, x in enumerate(inputs):
        x[:, :3] += torch.eye(3, dtype=torch.float64)[target]
        x[~mask[:, m]] = garbage
    return Split(tuple(inputs), target, mask=mask)


def replicate(fusion: Callable[..., Fusion], garbage: float) -> Replicate:
    one = split(garbage)
    data = MultimodalData(one, one, one, ("a", "b", "c"), ("0", "1", "2"), "toy")
    return make_replicate(0, 7, None, data, lambda d: MLP(d.feature_shapes, 3, hidden=(5,)), fusion, torch.float64)


def recipe(batch_size: int | None, accumulate: int = 1) -> Recipe:
    trainer = TrainerConfig(batch_size, 3, 0.0, 100, accumulate=accumulate)
    return Recipe(partial(torch.optim.Adam, lr=1e-2), trainer, "logits")


def trained(fusion: Callable[..., Fusion], garbage: float, path: str) -> tuple[Replicate, list[Any]]:
    one = replicate(fusion, garbage)
    how = recipe(*{"collapsed": (None,), "ordinary": (None,), "batches": (10, 2)}[path])
    trainer = CollapsedTrainer([one], how, CPU) if path == "collapsed" else OrdinaryTrainer(one, how, CPU)
    torch.manual_seed(1)
    losses = [trainer.step() for _ in range(6)]
    monitors = ["validation_loss", "validation_NLL", "validation_ACC"]
    told = [loss.tolist() for loss in losses if loss is not None]
    told += trainer.validation_values(monitors) + Validation([one], how, CPU).values([0], monitors)
    trainer.synchronise()
    return one, told


FUSIONS: list[Any] = [
    SumCrossEntropy,
    partial(MultiModalLoss, proxies_per_class=2),
    partial(OGMGE, noise=0.0),
    MMPareto,
]


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
@pytest.mark.parametrize("path", ["collapsed", "ordinary", "batches"])
def test_what_stands_in_the_place_of_a_missing_modality_is_never_seen(fusion: Any, path: str) -> None:
    if fusion is MMPareto and path == "collapsed":
        return  # it works on the modalities' parameters
    (one, told), (other, also) = (trained(fusion, garbage, path) for garbage in (0.0, 1e3))
    assert told == also
    for name, weight in one.state_dict()["backbone"].items():
        assert torch.equal(weight, other.backbone.state_dict()[name]), name


@pytest.mark.parametrize("fusion", FUSIONS[:3], ids=str)
def test_both_paths_train_the_same(fusion: Any) -> None:
    (fast, told), (plain, also) = (trained(fusion, 0.0, path) for path in ("collapsed", "ordinary"))
    np.testing.assert_allclose(
        np.concatenate([np.ravel(one) for one in told]), np.concatenate([np.ravel(one) for one in also])
    )
    for name, weight in fast.backbone.state_dict().items():
        torch.testing.assert_close(weight, plain.backbone.state_dict()[name])


@pytest.mark.parametrize("fusion", [MultiModalLoss, Multitask])
def test_evaluation_sees_nothing_of_it_either(fusion: Any) -> None:
    found = []
    for garbage in (0.0, 1e3):
        torch.manual_seed(0)
        test, report = evaluate(replicate(fusion, garbage), recipe(None), CPU, with_training_outputs=False)
        mask = test["mask"]
        assert mask.tolist() == split(0.0).mask.tolist()  # type: ignore[union-attr]
        assert np.isnan(test["read_out"][~mask]).all() and np.isfinite(test["read_out"][mask]).all()
        if "weights" in test:
            assert not test["weights"][~mask].any()
        own = test["modalities"][:, 1][mask[:, 1]].argmax(1) == test["target"][mask[:, 1]]
        assert report["metrics"]["test"]["modalities"]["b"]["ACC"] == pytest.approx(own.mean())
        found.append((test["fused"].tolist(), report))
    assert found[0] == found[1]


def test_a_read_out_is_fitted_to_the_samples_that_have_the_modality() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, target = torch.randn(40, 2, 3, generator=generator), torch.arange(40) % 3
    mask = torch.rand(40, 2, generator=generator) > 0.3
    fitted = ReadOut(3, 2).fit(scores.masked_fill(~mask[:, :, None], 1e3), target, mask=mask)
    for m in range(2):
        alone = ReadOut(3, 1).fit(scores[mask[:, m], m : m + 1], target[mask[:, m]])
        assert torch.equal(fitted.weight[m], alone.weight[0]) and torch.equal(fitted.bias[m], alone.bias[0])


# --- dataset.missing=mask


def tables() -> dict[str, pd.DataFrame]:
    """60 samples of three classes; ten have no genes, five no images."""
    rng, label = np.random.default_rng(0), np.arange(60) % 3
    ids = pd.Index([f"s{i}" for i in range(60)], name="id")
    made = {}
    for name, width, rows in (("genes", 6, slice(10, None)), ("images", 4, slice(None, 55))):
        values = 5 + rng.normal(size=(60, width)) + 2 * np.eye(3, width)[label]
        made[name] = pd.DataFrame(values.astype(np.float32), ids, [f"{name}{j}" for j in range(width)]).iloc[rows]
    return made


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for name, table in tables().items():
        table.to_csv(folder / f"{name}.csv")
    told = {"id": [f"s{i}" for i in range(60)], "label": [f"c{i % 3}" for i in range(60)]}
    pd.DataFrame({**told, "fold": [i // 3 % 3 for i in range(60)]}).to_csv(folder / "labels.csv", index=False)
    return folder


def test_what_is_fitted_is_fitted_to_the_samples_that_have_the_modality(study: Path) -> None:
    data = TablesDataset(study, missing="mask").load(0)
    for part, ids in (("train", data.train.names), ("test", data.test.names)):
        one: Split = getattr(data, part)
        assert ids is not None and one.mask is not None
        assert one.mask.tolist() == [[int(name[1:]) >= 10, int(name[1:]) < 55] for name in ids]
        for m, table in enumerate(tables().values()):
            known = [name for name in data.train.names or () if name in table.index]
            scaled = (table - table.loc[known].mean()) / table.loc[known].std(ddof=0)
            expected: Tensor = torch.tensor(scaled.reindex(ids).fillna(0).to_numpy(), dtype=torch.float32)
            torch.testing.assert_close(one.inputs[m], expected, rtol=1e-4, atol=1e-5)


def test_the_mask_is_part_of_the_fingerprint(study: Path) -> None:
    before = TablesDataset(study, missing="mask").load(0)
    table = tables()["genes"]
    row = pd.DataFrame([table.loc["s12":].mean()], index=pd.Index(["s3"], name="id"))  # type: ignore[misc]
    pd.concat([table, row]).to_csv(study / "genes.csv")
    assert TablesDataset(study, missing="mask").load(0).fingerprint != before.fingerprint


def test_samples_that_nothing_is_known_of_are_an_error(study: Path) -> None:
    for modality, absent in (("genes", "10 ids"), ("images", "5 ids")):
        with pytest.raises(UserError, match=rf"{absent} .*of labels.csv"):
            TablesDataset(study, missing="mask", modalities=[modality]).load(0)
    with pytest.raises(UserError, match=r"dataset\.missing=mask and dataset\.corrupt: give one of them"):
        TablesDataset(study, missing="mask", corrupt="noisy", corrupt_share=0.5)


def of_tables(study: Path, *more: str) -> Path:
    fast = ("trainer.max_epochs=6", "trainer.monitor=null", "tuning=none", "threads=1", "device=cpu", "progress=false")
    given = ("dataset=tables", f"dataset.path={study}", "dataset.missing=mask", f"output_dir={study.parent}/runs")
    return run(compose_config((*given, *fast, *more))).path


def test_a_run_trains_with_what_there_is_and_predicts_the_same_again(study: Path) -> None:
    path = of_tables(study, "method=multimodal", "folds=[0]")
    with np.load(path / "predictions.npz") as stored:
        kept = {key.partition("/")[2]: stored[key] for key in stored.files}
    rows = [list(kept["ids"])]
    some = {name: table.loc[[one for one in rows[0] if one in table.index]] for name, table in tables().items()}
    found = load_run(path, device="cpu").predict(some)
    order = [list(found.ids).index(one) for one in rows[0]]
    assert np.array_equal(found.fused[order], kept["fused"]) and found.own is not None
    assert np.array_equal(found.own[order], kept["read_out"], equal_nan=True)


def test_a_fold_whose_test_samples_all_lack_a_modality_is_scored_by_what_there_is(study: Path) -> None:
    """The images of fold 2 are gone: its own prediction by them is undefined, and nothing else. Samples that lack a
    modality count in no picture of it.
    """
    labels = pd.read_csv(study / "labels.csv").set_index("id").drop(["s6", "s7", "s8"])  # no genes, in fold 2
    labels.to_csv(study / "labels.csv")
    images = tables()["images"]
    images[images.index.map(labels["fold"]).isin([0, 1])].to_csv(study / "images.csv")
    stored = read_run(of_tables(study, "method=sum_ce_logits", "trainer.max_epochs=2"))
    assert stored.state == "done" and len(stored.values("test/fused/ACC")) == 3
    assert list(stored.values("test/modalities/images/ACC")) == [0, 1]
    arrays = read_predictions(stored)
    have = {name: np.concatenate([arrays[f"{r}/mask"][:, m] for r in range(3)]) for m, name in enumerate(tables())}
    target = np.concatenate([arrays[f"{r}/target"] for r in range(3)])
    modalities = np.concatenate([arrays[f"{r}/modalities"] for r in range(3)])
    shares = true_class_shares(arrays, list(have))
    for m, (name, there) in enumerate(have.items()):
        assert not there.all()
        true_class = modalities[there, m, target[there]]
        assert shares[name][-1] == pytest.approx(np.mean(true_class >= 0.9)) and sum(shares[name]) == pytest.approx(1)
    sizes = {name: figure.axes for name, figure in replicate_figures(arrays, list(have)).items()}
    assert f"{have['images'].sum()} samples" in sizes["reliability"][1].texts[0].get_text()
    alone = {key: array for key, array in arrays.items() if key.startswith("2/")}
    assert list(true_class_shares(alone, list(have))) == ["genes"]


def test_what_needs_every_modality_says_so(study: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.missing=mask: LogisticRegression needs every modality of a sample"):
        of_tables(study, "method=logistic", "folds=[0]")
