"""The one training entrypoint.

    python -m multimodal_loss.train dataset=synthetic dataset.noisy_modalities=2 backbone=mlp method=multimodal

trains every replicate of one config and fills one run directory; `-m` sweeps. Exit code 0: done, now or before; 1:
training failed; 2: a value or a file that the user can mend; 128 + n: stopped by signal n, with a checkpoint written
(or, while a replicate that has ended is evaluated, with the one written just before).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import uuid
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from multimodal_loss.command import (
    FAILURES,
    Interrupted,
    asked_to_stop,
    complain,
    is_orphan,
    run_command,
    stop_on_signals,
)
from multimodal_loss.configuration import CONFIG_DIR, DEFAULT_CHOICES, explain
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.training.run import run


def main() -> int:
    return run_command(_train)


def _train() -> int:
    """Let Hydra run one job or a sweep, and give the worst exit code of its jobs."""
    sys.argv = [argument for argument in sys.argv if argument not in DEFAULT_CHOICES]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out here, where they become one line
    os.environ.pop(FAILURES, None)
    try:
        _hydra_main()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except BrokenProcessPool as error:
        text = "a worker of the sweep was killed, perhaps for want of memory; start the same command again to continue"
        raise TrainingError(text) from error
    codes = []
    if FAILURES in os.environ:
        start = Path(os.environ[FAILURES])
        for path in start.parent.glob(f"{start.name}*"):
            codes.append(int(path.read_text()))
            path.unlink()
    return max(codes, default=0)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _hydra_main(config: DictConfig) -> None:
    _take(config)  # by its name: what a launcher sends to a worker is a copy of this function


def _take(config: DictConfig) -> None:
    """Do a job, in this process of its own or in a worker of a sweep, and leave word of a failure."""
    is_worker = multiprocessing.parent_process() is not None
    if is_worker:
        if asked_to_stop():
            return
        stop_on_signals()
    code = _job(config)
    if is_worker:
        for number in (signal.SIGTERM, signal.SIGINT):  # until its next job: the parent hears of it, too
            signal.signal(number, signal.SIG_IGN)
        if is_orphan():
            os._exit(128 + signal.SIGTERM)  # nobody is left to hear more
    elif code > 128:
        sys.exit(code)
    if code:
        try:
            Path(f"{os.environ[FAILURES]}-{uuid.uuid4().hex}").write_text(f"{code}\n")
        except (OSError, KeyError):  # the folder cannot be written: at least this process says so
            sys.exit(code)


def _job(config: DictConfig) -> int:
    """Train one config and give the exit code."""
    try:
        print(run(config).path, flush=True)
        return 0
    except (UserError, Interrupted) as error:
        return complain(error)


class CollectFailures(Callback):
    """Says, before anything runs, where jobs leave their exit codes."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._begin(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._begin(config)

    def _begin(self, config: DictConfig) -> None:
        if FAILURES in os.environ:
            return
        folder = Path(str(config.output_dir)).absolute() / ".sweep"
        os.environ[FAILURES] = str(folder / f"failure-{uuid.uuid4().hex[:12]}")
        with contextlib.suppress(OSError):  # the run says what is wrong with its folder
            folder.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    # Imported by its name, so that a parallel launcher can send the job to other processes.
    from multimodal_loss.train import main as entrypoint

    sys.exit(entrypoint())
