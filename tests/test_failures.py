"""What goes wrong in a run, and is no fault of ours, ends in one line and a result.json that says so."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import multimodal_loss.training.run as train_module
from multimodal_loss import command
from multimodal_loss.command import run_command
from multimodal_loss.configuration import compose_config
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.training.run import FailedRun, run


def results(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]


@pytest.mark.parametrize("fusion", ["sum_ce", "nn_ce", "multimodal"])
@pytest.mark.parametrize("path", ["auto", "ordinary"])
def test_weights_that_the_last_update_spoils(tiny: list[str], tmp_path: Path, fusion: str, path: str) -> None:
    """The loss is checked before the update, so it is the evaluation that finds them."""
    config = compose_config(
        [*tiny, f"fusion={fusion}", f"trainer.path={path}", "optimizer.lr=1e30", "trainer.max_epochs=1"]
    )
    with pytest.raises(FailedRun, match=r"not finite; try a smaller optimizer\.lr") as caught:
        run(config)
    assert isinstance(caught.value.__cause__, TrainingError)
    (result,) = results(tmp_path)
    assert result["status"] == "failed" and "optimizer.lr" in result["error"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried"),
        RuntimeError("you can't allocate memory: 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_too_little_memory(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(train_module, "_fit", fails)
    with pytest.raises(FailedRun, match=r"^out of memory on (cpu|cuda|mps)\S* \(.*trainer\.batch_size=100") as caught:
        run(compose_config([*tiny, f"device={device}"]))
    assert "\n" not in str(caught.value)
    assert results(tmp_path)[0]["status"] == "failed"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("backbone.hidden=[2000000000,20000]", "; make backbone.hidden=[2000000000, 20000] smaller"),
        ("fusion.proxies_per_class=9000000000000", "; make fusion.proxies_per_class=9000000000000 smaller"),
    ],
)
def test_a_model_too_large_to_build_names_the_option(tiny: list[str], override: str, named: str) -> None:
    with pytest.raises(FailedRun, match="out of memory while .*" + re.escape(named)) as caught:
        run(compose_config([*tiny, "fusion=multimodal", override]))
    assert isinstance(caught.value.__cause__, TrainingError)


@pytest.fixture
def another_user() -> Iterator[Callable[[], contextlib.AbstractContextManager[Path]]]:
    """A folder that all may read, and a context in which this process is not its owner, nor root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    @contextlib.contextmanager
    def become() -> Iterator[Path]:
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)

    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o777)
        yield become


@pytest.mark.parametrize("closed", ["study", "study/labels.csv", "study/a.csv", "study/b.parquet"])
def test_data_of_another_user(
    another_user: Callable[[], contextlib.AbstractContextManager[Path]],
    closed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder, or a file in it, that this user may not read: one line that names it, whatever reads it."""
    monkeypatch.setattr(command, "stop_on_signals", lambda: None)
    with another_user() as folder:
        pass  # its name
    (folder / "study").mkdir()
    table = pd.DataFrame({"id": range(40), "x": np.arange(40.0) % 7})
    table.to_csv(folder / "study" / "a.csv", index=False)
    table.to_parquet(folder / "study" / "b.parquet")
    pd.DataFrame({"id": range(40), "label": ["u", "v"] * 20}).to_csv(folder / "study" / "labels.csv", index=False)
    overrides = ["dataset=tables", f"dataset.path={folder}/study", "method=logistic", "threads=1", "folds=[0]"]
    overrides += [f"output_dir={folder}/runs", f"data_dir={folder}/data", "progress=false", "tuning=none"]
    config = compose_config(overrides)
    run(compose_config([*overrides, f"output_dir={folder}/before"]))  # what is imported late is there now
    (folder / closed).chmod(0)
    with another_user():
        code = run_command(lambda: len(str(run(config).path)))
    assert code in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and closed in said and "ermission denied" in said


def test_a_bug_keeps_its_traceback_and_is_recorded(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("nobody expected")

    with monkeypatch.context() as context:
        context.setattr(train_module, "_fit", fails)
        with pytest.raises(KeyError):
            run(compose_config(tiny))
    assert results(tmp_path)[0]["error"] == "KeyError: 'nobody expected'"

    def stopped(*_: object) -> None:
        assert not results(tmp_path)  # while it trains again it is no longer failed
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(train_module, "_fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(compose_config(tiny))
    assert results(tmp_path) == []
    run(compose_config(tiny))
    assert results(tmp_path)[0]["status"] == "done"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.betas=[0.9,1]", "bad value in optimizer: Invalid beta parameter"),
        ("trainer.path=logistic", "trainer.path=logistic: must be one of auto, ordinary"),
        ("scheduler=step scheduler.step_size=0", "bad value in scheduler: integer modulo by zero"),
        ("scheduler=cosine scheduler.T_max=0", "bad value in scheduler: "),
        (
            "scheduler=cosine scheduler._target_=torch.optim.lr_scheduler.OneCycleLR ~scheduler.T_max "
            "~scheduler.eta_min +scheduler.max_lr=0.01 +scheduler.total_steps=3",
            "bad value in scheduler: Tried to step 4 times",
        ),
    ],
)
def test_values_that_were_tracebacks(tiny: list[str], override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(compose_config([*tiny, *override.split()]))


def test_betas_of_zero_are_allowed(tiny: list[str], tmp_path: Path) -> None:
    run(compose_config([*tiny, "optimizer.betas=[0.0,0.999]", "trainer.max_epochs=2"]))
    assert results(tmp_path)[0]["status"] == "done"


def test_logistic_regression_never_takes_a_second_softmax(tiny: list[str]) -> None:
    linear = [one for one in tiny if not one.startswith("backbone")]
    linear += ["backbone=logistic", "fusion=unimodal", "fusion_input=probabilities"]
    with pytest.raises(FailedRun, match=r"fusion_input=logits"):
        run(compose_config(linear))
