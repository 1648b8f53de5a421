"""Corrupted modalities: which, how, and in which parts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from multimodal_loss.datasets.corruption import CorruptedSplit, Corruption
from multimodal_loss.datasets.tables import TablesDataset
from multimodal_loss.errors import UserError

WIDTHS = (40, 25, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    ids = pd.Index([f"s{i}" for i in range(240)], name="id")
    for m, width in enumerate(WIDTHS):
        values = rng.normal(7, 3, (240, width)) * np.arange(1, width + 1)
        pd.DataFrame(values, ids, [f"f{j}" for j in range(width)]).reset_index().to_parquet(path / f"m{m}.parquet")
    pd.DataFrame({"label": np.arange(240) % 4}, ids).to_csv(path / "labels.csv")
    return path


def load(
    folder: Path, kind: str | None, share: float | None = 0.5, **options: int
) -> tuple[CorruptedSplit, CorruptedSplit]:
    data = TablesDataset(folder, corrupt=kind, corrupt_share=share if kind else None, **options).load(0)  # type: ignore[arg-type]
    return data.train, data.test  # type: ignore[return-value]


def test_noise_takes_one_modality_of_a_share_of_the_samples_in_both_parts(folder: Path) -> None:
    for clean, noisy in zip(load(folder, None), load(folder, "noisy"), strict=True):
        same = torch.stack([(a == b).all(1) for a, b in zip(clean.inputs, noisy.inputs, strict=True)], dim=1)
        expected = torch.from_numpy(noisy.replaced)[:, None] != torch.arange(3)
        assert torch.equal(same, expected) and torch.equal(clean.target, noisy.target)
        assert 0.3 < (noisy.replaced >= 0).mean() < 0.7
        assert set(noisy.replaced) == {-1, 0, 1, 2}
        drawn = torch.cat([x[noisy.replaced == m].flatten() for m, x in enumerate(noisy.inputs)])
        assert abs(drawn.mean()) < 0.1 and abs(drawn.std() - 1) < 0.1  # in units of each feature


def test_noise_is_in_the_units_of_the_features_where_they_are_not_standardised(folder: Path) -> None:
    scaled, _ = load(folder, "noisy")
    data = TablesDataset(folder, corrupt="noisy", corrupt_share=0.5, standardise=False).load(0)
    clean = TablesDataset(folder, standardise=False).load(0).train.inputs[1].double()
    mean, sd = clean.mean(0), clean.std(0, correction=0)
    torch.testing.assert_close((data.train.inputs[1] - mean) / sd, scaled.inputs[1].double(), rtol=0, atol=1e-4)


def test_what_is_replaced_follows_from_seed_and_sample_alone(folder: Path) -> None:
    ids = [f"s{i}" for i in range(240)]
    corruption = Corruption("noisy", 0.25, 3)
    whole = corruption.replaced(ids, 3)
    assert np.array_equal(corruption.replaced(ids[::-1], 3), whole[::-1])
    more = Corruption("noisy", 0.5, 3).replaced(ids, 3)
    assert np.array_equal(more[whole >= 0], whole[whole >= 0])  # of a larger share the smaller is a part
    assert not np.array_equal(Corruption("noisy", 0.25, 4).replaced(ids, 3), whole)
    assert np.array_equal(corruption.noise("s1 m0", 5), corruption.noise("s1 m0", 5))
    assert not np.array_equal(corruption.noise("s1 m0", 5), corruption.noise("s2 m0", 5))
    first, second = (load(folder, "noisy", corrupt_seed=seed)[0].replaced for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_conflicts_are_in_the_test_part_and_come_from_the_next_class(folder: Path) -> None:
    (train, test), (clean, clean_test) = load(folder, "conflicting"), load(folder, None)
    assert not isinstance(train, CorruptedSplit)
    assert all(torch.equal(a, b) for a, b in zip(train.inputs, clean.inputs, strict=True))
    for n, m in enumerate(test.replaced):
        for other in range(3):
            if other != m:
                assert torch.equal(test.inputs[other][n], clean_test.inputs[other][n])
            else:
                (source,) = torch.nonzero((clean_test.inputs[m] == test.inputs[m][n]).all(1)).flatten().tolist()
                assert clean_test.target[source] == (clean_test.target[n] + 1) % 4
    assert test.to(torch.device("cpu")).extra_arrays()["replaced"] is test.replaced


def test_a_conflict_takes_the_next_class_that_is_there() -> None:
    target = np.array([0, 0, 3, 3])
    chosen = Corruption("conflicting", 1.0, 0).stand_ins(["a", "b", "c", "d"], target, 4)
    assert set(chosen[:2]) <= {2, 3} and set(chosen[2:]) <= {0, 1}


def test_what_is_tuned_on_has_the_noise_and_no_conflicts(folder: Path) -> None:
    inner = {"inner_folds": 3, "inner_fold": 0}
    assert not isinstance(load(folder, "conflicting", **inner)[1], CorruptedSplit)
    assert isinstance(load(folder, "noisy", **inner)[1], CorruptedSplit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupt": "noisy"}, "give both"),
        ({"corrupt_share": 0.5}, "give both"),
        ({"corrupt": "loud", "corrupt_share": 0.5}, "corrupt=loud"),
        ({"corrupt": "noisy", "corrupt_share": 1.5}, "0..1"),
        ({"folds": 10, "repeats": 3}, "repeats=3"),
        ({"folds": 2, "repeats": 2}, "repeats=2"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TablesDataset("x", **options)  # type: ignore[arg-type]


def test_repeats_are_shuffles_of_their_own_in_which_every_sample_is_tested_once(folder: Path) -> None:
    data = TablesDataset(folder, folds=6, repeats=2)
    tests = [data._parts(fold)["test"] for fold in range(6)]
    for repeat in (tests[:3], tests[3:]):
        assert sorted(np.concatenate(repeat)) == list(range(240))
    assert not any(np.array_equal(a, b) for a in tests[:3] for b in tests[3:])
    alone = TablesDataset(folder, folds=3)
    assert all(np.array_equal(alone._parts(fold)["test"], tests[fold]) for fold in range(3))
