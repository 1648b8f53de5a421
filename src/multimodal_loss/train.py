"""The one training entrypoint.

    python -m multimodal_loss.train dataset=synthetic dataset.noisy_modalities=2 backbone=mlp method=multimodal

trains every replicate of one config and fills one run directory; `-m` sweeps. Exit code 0: done, now or before; 1:
training failed; 2: a value or a file that the user can mend; 128 + n: stopped by signal n, with a checkpoint written
(or, while a replicate that has ended is evaluated, with the one written just before).
"""

import contextlib
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from multimodal_loss.configuration import CONFIG_DIR, DEFAULT_CHOICES, explain
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.files import WriteError
from multimodal_loss.training.loop import Interrupted
from multimodal_loss.training.run import run

# Jobs of a sweep may run in other processes, and on other machines: each writes the exit code of its failure to a file
# of its own whose name begins as this variable says, in the output folder, which they share.
FAILURES = "MULTIMODAL_LOSS_FAILURES"


def main() -> int:
    """Let Hydra run one job or a sweep, and give the worst exit code of its jobs."""
    sys.argv = [argument for argument in sys.argv if argument not in DEFAULT_CHOICES]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out here, where they become one line
    os.environ.pop(FAILURES, None)
    try:
        _hydra_main()
    except KeyboardInterrupt:
        return _complain(Interrupted(signal.SIGINT), 128 + signal.SIGINT)
    except (HydraException, OmegaConfBaseException) as error:
        return _complain(explain(error), 2)
    except UserError as error:
        return _complain(error, 2)
    codes = []
    if FAILURES in os.environ:
        start = Path(os.environ[FAILURES])
        for path in start.parent.glob(f"{start.name}*"):
            codes.append(int(path.read_text()))
            path.unlink()
    return max(codes, default=0)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _hydra_main(config: DictConfig) -> None:
    try:
        print(run(config).path)
    except Interrupted as interruption:
        sys.exit(_complain(interruption, 128 + interruption.signal_number))
    except UserError as error:
        ours = any(isinstance(one, (TrainingError, WriteError)) for one in (error, error.__cause__))
        code = _complain(error, 1 if ours else 2)
        try:
            Path(f"{os.environ[FAILURES]}-{uuid.uuid4().hex}").write_text(f"{code}\n")
        except (OSError, KeyError):  # the folder cannot be written: at least this process says so
            sys.exit(code)


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


def _complain(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    # Imported by its name, so that a parallel launcher can send the job to other processes.
    from multimodal_loss.train import main as entrypoint

    sys.exit(entrypoint())
