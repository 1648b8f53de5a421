"""Training on clips that are decoded: killed, or stopped by a frame that has gone bad, a run goes on bit for bit."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import get_epic
from make_epic_like import write_like
from multimodal_loss.configuration import compose_config
from multimodal_loss.datasets import Draws, EpicDataset
from multimodal_loss.datasets.epic import ClipSplit
from multimodal_loss.errors import UserError
from multimodal_loss.training.run import run
from test_resume import outcome


class Pooled(nn.Module):
    """Means and extremes of each channel over the clip, then a linear layer for each modality."""

    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int, **_: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3 * shape[0], num_classes) for shape in feature_shapes)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        pooled = [torch.cat([x.flatten(2).mean(2), x.flatten(2).amax(2), x.flatten(2).amin(2)], 1) for x in inputs]
        return torch.stack([layer(x) for layer, x in zip(self.layers, pooled, strict=True)], dim=1)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Ten clips in batches of three: four steps an epoch, a checkpoint after each."""
    folder = tmp_path / "epic"
    write_like(folder, clips=(10, 3, 3), size=(24, 16))
    get_epic.get(folder, folder / "EPIC-KITCHENS", flow_index="fixed")
    config = ["dataset=epic_like", f"dataset.path={folder}", "dataset.crop=14", "fusion=multimodal", "seeds=[3]"]
    config += ["backbone._target_=test_epic_training.Pooled", "trainer.batch_size=3", "trainer.max_epochs=5"]
    config += ["trainer.monitor=validation_loss", "optimizer.lr=1e-2", "checkpoint_seconds=0", "threads=1"]
    return [*config, "device=cpu", "progress=false", f"output_dir={tmp_path}/runs"]


def run_and_be_killed(overrides: list[str], batch: int) -> None:
    values, batches = ClipSplit.values, list[int]()

    def counting(self: ClipSplit, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        batches.append(len(inputs[0]))
        if len(batches) == batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return values(self, inputs)

    ClipSplit.values = counting  # type: ignore[method-assign]
    run(compose_config(overrides))


def test_killed_in_the_middle_of_an_epoch_it_ends_in_the_same_numbers(overrides: list[str], tmp_path: Path) -> None:
    """Once with two processes that decode, once with none; the rest with two."""
    expected = run(compose_config([*overrides, f"output_dir={tmp_path}/undisturbed"])).path
    folder = tmp_path / "runs" / expected.name
    for workers, batch, reached in ((2, 8, (1, 6)), (0, 6, (2, 6))):
        process = multiprocessing.get_context("fork").Process(
            target=run_and_be_killed, args=([*overrides, f"workers={workers}"], batch)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not (folder / "result.json").exists()
        trainer = torch.load(folder / "checkpoint.pt", weights_only=True)["training"]["trainer"]
        assert (trainer["epochs"], trainer["seen"]) == reached
    assert outcome(run(compose_config([*overrides, "workers=2"])).path) == outcome(expected)


def test_a_frame_that_goes_bad_in_epoch_3_is_named_and_the_run_goes_on_once_it_is_replaced(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run(compose_config([*overrides, f"output_dir={tmp_path}/undisturbed"])).path
    folder = tmp_path / "epic"
    split = EpicDataset(folder, flow_index="fixed", crop=14).load().train
    assert isinstance(split, ClipSplit)
    row = split.frames["flow"][4, 1, 7]
    offset, frames = int(split.store.entries["offset"][row]), folder / "frames" / "frames.bin"
    generator = Draws.generator

    def goes_bad(self: Draws, sample: int) -> torch.Generator:
        if self.epoch == 2:
            with frames.open("r+b") as file:
                file.seek(offset + 200)
                file.write(b"bad")
        return generator(self, sample)

    with monkeypatch.context() as context:
        context.setattr(Draws, "generator", goes_bad)
        with pytest.raises(UserError) as error:
            run(compose_config(overrides))
    message = str(error.value)
    assert f"{folder}/frames: P0" in message or f"{folder}/frames: P2" in message
    assert f"of clip {split.names[4]}: the bytes are not those that were stored" in message
    assert f"get_epic.py --folder {folder} --check replaces it" in message and "\n" not in message
    # What the message says to do, then the same command again.
    assert get_epic.main(["--folder", str(folder), "--flow-index", "fixed", "--check"]) == 0
    assert "1 stored frames are damaged" in capsys.readouterr().err
    assert np.array_equal(EpicDataset(folder, flow_index="fixed", crop=14).load().train.target, split.target)
    assert outcome(run(compose_config(overrides)).path) == outcome(expected)
