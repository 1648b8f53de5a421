"""Frozen features: what is pooled, where it may lie, continuing, and a training on them."""

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

import extract_i3d
from multimodal_loss.backbones import XNorm
from multimodal_loss.configuration import compose_config
from multimodal_loss.datasets import Dataset, MultimodalData, Split
from multimodal_loss.errors import UserError
from multimodal_loss.training.run import run

VERBS = ("take", "put", "wash", "open", "close", "insert", "turn-on", "cut")
SHAPES = ((3, 16, 32, 32), (2, 16, 32, 32))


@dataclass(frozen=True)
class Clips(Split):
    names: tuple[str, ...] = ()


class Made(Dataset):
    """Twelve clips to train on, eight of each other part."""

    version = 1
    generated = True

    def load(self, fold: int | None = None) -> MultimodalData:
        parts = [self._part(name, number) for name, number in (("a", 12), ("b", 8), ("c", 8))]
        return MultimodalData(parts[0], parts[1], parts[2], ("rgb", "flow"), VERBS, "made")

    def _part(self, name: str, number: int) -> Clips:
        generator = torch.Generator().manual_seed(number)
        inputs = tuple(torch.rand(number, *shape, generator=generator) for shape in SHAPES)
        return Clips(inputs, torch.arange(number) % 8, tuple(f"{name}_{n}" for n in range(number)))


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(extract_i3d, "make_dataset", lambda settings: Made())
    monkeypatch.setattr(extract_i3d, "PIECE", 5)
    return ["dataset=epic_like", f"data_dir={tmp_path}", "backbone.width=0.0625", "device=cpu", "threads=1"]


def test_features_are_what_the_evaluated_networks_pool(overrides: Sequence[str]) -> None:
    folder = extract_i3d.extract(overrides, any_weights=True)
    torch.manual_seed(0)
    network = XNorm(SHAPES, 8, exchange="none", width=0.0625).eval()
    data = Made().load()
    with torch.no_grad():
        expected = [
            network.pooled_features(split.inputs) for split in (data.train, data.validation, data.test) if split
        ]
    for m, name in enumerate(("rgb", "flow")):
        table = pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pandas().set_index("id")
        assert list(table.index) == [
            f"{part}_{n}" for part, number in (("a", 12), ("b", 8), ("c", 8)) for n in range(number)
        ]
        ours = torch.from_numpy(table.to_numpy(copy=True))
        torch.testing.assert_close(ours, torch.cat([of_part[m] for of_part in expected]), rtol=1e-4, atol=1e-6)
    labels = (folder / "labels.csv").read_text().splitlines()
    assert labels[0] == "id,label,split" and labels[1] == "a_0,take,train" and labels[-1] == "c_7,cut,test"


def test_interrupted_it_pools_only_what_is_left(overrides: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pooled = XNorm.pooled_features, list[int]()

    def broken(self: XNorm, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        pooled.append(len(inputs[0]))
        if len(pooled) == 3:
            raise KeyboardInterrupt
        return whole(self, inputs)

    monkeypatch.setattr(XNorm, "pooled_features", broken)
    with pytest.raises(KeyboardInterrupt):
        extract_i3d.extract(overrides, any_weights=True)
    folder = extract_i3d.extract(overrides, any_weights=True)
    assert pooled == [5, 5, 2, 2, 5, 3, 5, 3]
    assert sorted(p.name for p in folder.iterdir()) == ["SOURCE.json", "flow.parquet", "labels.csv", "rgb.parquet"]
    before = (folder / "rgb.parquet").read_bytes()
    extract_i3d.extract(overrides, any_weights=True)
    assert len(pooled) == 8 and (folder / "rgb.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; start the same command again to go on\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), 2, "error: /data: Permission denied\n"),
    ],
)
def test_what_stops_it_is_one_line(
    overrides: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(extract_i3d, "make_dataset", stopped)
    assert extract_i3d.main(overrides) == code
    assert capsys.readouterr().err == said


def test_overrides_that_training_sweeps_over_do_not_stop_it(overrides: Sequence[str]) -> None:
    assert extract_i3d.main(["--any-weights", *overrides, "optimizer.lr=1e-3,5e-3", "seeds=[0],[1]"]) == 0


def test_networks_without_the_released_weights_are_refused(overrides: Sequence[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"need the released weights.*--any-weights") as caught:
        extract_i3d.extract(overrides)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    folder = extract_i3d.extract(overrides, any_weights=True)
    assert folder.name == "epic_like-features-any-weights"  # never where the real table's features are looked for


def test_a_training_on_them_knows_that_they_were_generated(overrides: Sequence[str], tmp_path: Path) -> None:
    folder = extract_i3d.extract(overrides, any_weights=True)
    for method in ("multimodal", "unimodal_2"):
        given = ["experiment=table_4_frozen", f"method={method}", f"dataset.path={folder}", "seeds=[0]", "workers=0"]
        short = ["trainer.max_epochs=2", "trainer.batch_size=6", "device=cpu", "threads=1", "progress=false"]
        result = json.loads(run(compose_config([*given, *short, f"output_dir={tmp_path}/runs"])).result.read_text())
        assert result["dataset"]["generated"] is True and result["dataset"]["classes"] == list(VERBS)
        assert result["dataset"]["sizes"] == {"train": 12, "validation": 8, "test": 8}
        assert result["dataset"]["modalities"] == (["flow"] if method == "unimodal_2" else ["rgb", "flow"])
