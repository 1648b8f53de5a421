"""The synthetic data: what eq. 8 and the authors' files say of them, determinism, cache, and bad options."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from multimodal_loss.datasets import SyntheticDataset
from multimodal_loss.datasets.synthetic import SPLITS, SyntheticOptions, coefficients, draw_modality, draw_scores
from multimodal_loss.errors import UserError
from search_synthetic_data_seeds import choose, least_squares_accuracies

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"num_features": 60, "train_size": 2000, "validation_size": 200, "test_size": 1000}


def dataset(data_seed: int = 1, noisy: int = 2, **options: object) -> SyntheticDataset:
    return SyntheticDataset(data_seed, noisy, **{**SMALL, **options})  # type: ignore[arg-type]


def test_splits_are_balanced_sorted_and_of_the_asked_size() -> None:
    data = dataset().load()
    for split, size in ((data.train, 2000), (data.validation, 200), (data.test, 1000)):
        assert split is not None
        assert len(split) == size
        assert split.target.tolist() == [0] * (size // 2) + [1] * (size // 2)
        assert [x.shape for x in split.inputs] == [(size, 60)] * 3


def test_features_are_standard_normal() -> None:
    x = torch.cat(dataset().load().train.inputs)
    assert x.dtype == torch.float32
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01


@pytest.mark.parametrize("labels", ["threshold", "bernoulli"])
def test_each_modality_alone_carries_the_label(labels: str) -> None:
    """Pairing by label: with no noise, features and betas predict every modality's label but for eps (and the coin)."""
    data = dataset(sigmas=[0.0, 0.0, 0.0], labels=labels)
    for m, x in enumerate(data.load().train.inputs):
        predicted = x.numpy() @ coefficients(data.options, m) > 0
        assert (predicted == data.load().train.target.numpy()).mean() > 0.9


def test_labels_are_the_thresholded_score_of_equation_8() -> None:
    """An independent reading: undo the sign flip and recompute z from its parts."""
    options = dataset().options
    for m, sigma in enumerate((0.2, 10.0, 10.0)):
        features, clean, noise = draw_scores(options, m, "train")
        label = (clean + sigma * noise > 0).astype(int)
        flipped = np.where((label != np.repeat([0, 1], 1000))[:, None], -features, features)
        np.testing.assert_array_equal(draw_modality(options, m, "train"), flipped)


def test_modalities_and_splits_are_independent_draws_with_shared_betas() -> None:
    data = dataset()
    drawn = [draw_modality(data.options, m, s)[0, :4].tolist() for m in range(3) for s in SPLITS]
    assert len({tuple(row) for row in drawn}) == 9
    beta = coefficients(data.options, 0)
    assert np.count_nonzero(beta) == 20
    assert not np.array_equal(beta, coefficients(data.options, 1))


def test_the_spread_of_the_betas() -> None:
    """N(0, 2) read as standard deviation, or as variance."""
    for scale, expected in (("sd", 2.0), ("variance", 2.0**0.5)):
        options = SyntheticOptions((0.2,), 0, num_features=20_000, num_informative=20_000, coefficient_scale=scale)
        assert abs(coefficients(options, 0).std() - expected) < 0.05


def test_generation_is_deterministic_and_every_option_counts() -> None:
    base = dataset().load().fingerprint
    assert dataset().load().fingerprint == base
    variants: list[dict[str, object]] = [
        {"data_seed": 2},
        {"noisy": 1},
        {"noise": "per_feature"},
        {"noise_scale": "variance"},
        {"coefficient_scale": "variance"},
        {"labels": "bernoulli"},
        {"num_informative": 10},
        {"noisy_sigma": 3.0},
    ]
    fingerprints = [dataset(**v).load().fingerprint for v in variants]  # type: ignore[arg-type]
    assert len({base, *fingerprints}) == len(variants) + 1


def test_the_cache_gives_the_same_bytes_and_is_used(tmp_path: Path) -> None:
    fresh, first = dataset().load(), dataset(cache_dir=tmp_path).load()
    (folder,) = tmp_path.iterdir()
    marker = (folder / "train-0.npy").stat().st_mtime_ns
    second = dataset(cache_dir=tmp_path).load()
    assert (folder / "train-0.npy").stat().st_mtime_ns == marker
    assert fresh.fingerprint == first.fingerprint == second.fingerprint
    for a, b in zip(fresh.test.inputs, second.test.inputs, strict=True):
        assert torch.equal(a, b)


def test_an_unwritable_cache_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the synthetic data"):
        dataset(cache_dir=tmp_path / "file").load()


def test_a_damaged_cache_is_one_clear_line(tmp_path: Path) -> None:
    dataset(cache_dir=tmp_path).load()
    (folder,) = tmp_path.iterdir()
    whole = (folder / "test-1.npy").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:40], b""):
        (folder / "test-1.npy").write_bytes(damaged)
        with pytest.raises(UserError, match=f"{folder}: the synthetic data are damaged .* delete this folder") as error:
            dataset(cache_dir=tmp_path).load()
        assert "\n" not in str(error.value)
    (folder / "test-1.npy").unlink()
    with pytest.raises(UserError, match="damaged"):
        dataset(cache_dir=tmp_path).load()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o027, 0o750)])
def test_others_may_read_the_cache_as_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        dataset(cache_dir=tmp_path).load()
    finally:
        os.umask(before)
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == mode


def test_chosen_modalities_are_the_same_arrays() -> None:
    all_three, last = dataset().load(), dataset(modalities=["m3"]).load()
    assert last.modalities == ("m3",)
    assert torch.equal(last.train.inputs[0], all_three.train.inputs[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "none"}, "dataset.noise=none"),
        ({"labels": "soft"}, "dataset.labels=soft"),
        ({"train_size": 3}, "dataset.train_size=3"),
        ({"test_size": 0}, "dataset.test_size=0"),
        ({"num_informative": 61}, "dataset.num_informative=61"),
        ({"noisy": 4}, "dataset.noisy_modalities=4"),
        ({"sigmas": [1.0, -1.0]}, "sigmas"),
        ({"sigmas": []}, "sigmas"),
        ({"modalities": ["m4"]}, "choose from m1, m2, m3"),
        ({"modalities": []}, "choose from"),
        ({"modalities": ["m1", "m1"]}, "choose from m1, m2, m3, each once"),
        ({"data_seed": -1}, "data_seed=-1"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        dataset(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# Test accuracies of the least-squares classifier over four draws, measured independently of this code; another draw may
# lie a point outside their range.
READINGS = [
    ({"noise": "per_sample"}, (86.3, 87.9), (51.7, 56.4)),
    ({"noise": "per_feature"}, (84.4, 86.4), (50.0, 50.6)),
    ({"noise": "per_feature", "noise_scale": "variance"}, (79.7, 80.8), (53.5, 55.1)),
]


@pytest.mark.parametrize(("reading", "easy", "noisy"), READINGS)
def test_least_squares_accuracies_at_full_size(
    reading: dict[str, str], easy: tuple[float, float], noisy: tuple[float, float]
) -> None:
    options = SyntheticOptions((0.2, 10.0), data_seed=0, **reading)  # type: ignore[arg-type]
    measured = [100 * a for a in least_squares_accuracies(options, 0, [0.2, 10.0])]
    for value, (low, high) in zip(measured, (easy, noisy), strict=True):
        assert low - 1 <= value <= high + 1


def test_the_committed_search_agrees_with_the_code_and_the_config() -> None:
    folder = ROOT / "outputs/results/synthetic_data_seeds"
    accuracies, chosen = pd.read_csv(folder / "accuracies.csv"), pd.read_csv(folder / "chosen.csv")
    options = SyntheticOptions((0.2, 0.2, 0.2), data_seed=31)
    row = accuracies[(accuracies["data_seed"] == 31) & (accuracies["modality"] == "m2")].iloc[0]
    assert least_squares_accuracies(options, 1, [0.2, 10.0]) == pytest.approx([row["easy"], row["noisy"]], abs=2e-4)
    paper = pd.read_csv(ROOT / "src/multimodal_loss/reporting/paper_tables.csv")
    again = choose(accuracies[accuracies["data_seed"] < 100], paper[paper["table"] == "1"])
    pd.testing.assert_frame_equal(again, chosen)
    config = (ROOT / "conf/dataset/synthetic.yaml").read_text()
    seeds = ", ".join(f'"{n}": {s}' for n, s in zip(chosen["noisy_modalities"], chosen["data_seed"], strict=True))
    assert f"default_data_seeds: {{{seeds}}}" in config


def test_the_accuracy_is_that_of_the_dataset_as_a_model_sees_it() -> None:
    """The search scores unflipped draws; on the flipped, balanced data least squares gives the same accuracy."""
    data = dataset(noisy=0)
    x, y = (t.numpy() for t in (data.load().train.inputs[0], data.load().train.target))
    weights = np.linalg.lstsq(x, 2.0 * y - 1, rcond=None)[0]
    test = data.load().test
    accuracy = ((test.inputs[0].numpy() @ weights > 0) == test.target.numpy().astype(bool)).mean()
    assert accuracy == pytest.approx(least_squares_accuracies(data.options, 0, [0.2])[0], abs=1e-9)


def test_the_fingerprint_is_of_all_options_and_of_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    base = dataset()
    before = base.fingerprint()
    assert dataset(modalities=["m1"], cache_dir="somewhere").fingerprint() == before
    for field in dataclasses.fields(base.options):
        value = getattr(base.options, field.name)
        other = {"per_sample": "per_feature", "sd": "variance", "threshold": "bernoulli"}.get(value) or (
            (1.0,) if isinstance(value, tuple) else value + 2
        )
        changed = dataset()
        changed.options = dataclasses.replace(base.options, **{field.name: other})
        assert changed.fingerprint() != before
    monkeypatch.setattr(SyntheticDataset, "version", 2)
    assert dataset().fingerprint() != before
    base.require_files()  # it needs none


def test_the_cache_of_the_published_settings_keeps_its_name() -> None:
    """Half a gigabyte a setting need not be made anew."""
    assert SyntheticDataset(data_seed=31).fingerprint() == "5944990cc550141b"
