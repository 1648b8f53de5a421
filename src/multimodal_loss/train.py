"""The one training entrypoint.

    python -m multimodal_loss.train dataset=synthetic dataset.noisy_modalities=2 backbone=mlp method=multimodal

trains every replicate of one config and fills one run directory; `-m` sweeps. Exit code 0: done, now or before; 1:
training failed; 2: a value or a file that the user can mend; 128 + n: stopped by signal n, with a checkpoint written
(or, while a replicate that has ended is evaluated, with the one written just before).
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multimodal_loss.command import (
    FAILURES,
    JOB,
    JOBS,
    Interrupted,
    asked_to_stop,
    complain,
    is_orphan,
    run_command,
    stop_if_asked,
    stop_on_signals,
)
from multimodal_loss.configuration import CONFIG_DIR, DEFAULT_CHOICES, NO_NAME, explain
from multimodal_loss.errors import TrainingError, UserError, one_line, say
from multimodal_loss.files import WriteError, write_atomically
from multimodal_loss.training.run import run, validation_accuracy

# Packages whose launchers end a sweep by an error of their own where a job has ended without a word: killed, or lost.
LAUNCHERS = ("submitit", "ray")

_here = False  # whether this is the process of the command; a job may run in another


def main() -> int:
    return run_command(_train)


def _train() -> int:
    """Let Hydra run one job or a sweep, and give the worst exit code of its jobs."""
    global _here
    _here = True
    sys.argv = [argument for argument in sys.argv if argument not in DEFAULT_CHOICES]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out here, where they become one line
    for name in (FAILURES, JOB, JOBS):
        os.environ.pop(name, None)
    try:
        _hydra_main()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except BrokenProcessPool as error:
        stop_if_asked()  # workers that still import end at once by the Ctrl-C of a terminal
        text = "a worker of the sweep was killed, perhaps for want of memory; start the same command again to continue"
        raise TrainingError(text) from error
    except ValueError as error:
        if NO_NAME in str(error):
            raise UserError(explain(error)) from error
        if "No trials are completed" not in str(error):  # Optuna's
            raise
        raise TrainingError("no trial of the search has a validation accuracy") from error
    except Interrupted:
        if "submitit" in sys.modules:
            say("jobs that the cluster has been given go on; scancel ends them")
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in LAUNCHERS:
            raise
        what = " ".join(str(error).splitlines()[:2])
        again = "what else was begun may go on; start the same command again for what is missing then"
        raise TrainingError(f"a job of the sweep ended without a result: {one_line(what, 500)}; {again}") from error
    finally:
        codes = list(_words())
    return max(codes, default=0)


def _words() -> Iterator[int]:
    """How the jobs in other processes ended: what is to be said of each is said here, and its exit code given."""
    if FAILURES not in os.environ:
        return
    start = Path(os.environ[FAILURES])
    for path in sorted(start.parent.glob(f"{start.name}*"), key=lambda path: path.stat().st_mtime):
        code, text, *job = path.read_text().split("\n")
        path.unlink()
        if code == "0":
            print(text, flush=True)
        elif text:
            given = [argument.lower() for argument in sys.argv]
            varied = [override for override in job if override.lower() not in given]
            say(f"error: {' '.join(['job', *varied]) if varied else 'the job'}: {text}")
        yield int(code)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _hydra_main(config: DictConfig) -> float | None:
    return _take(config)  # by its name: what a launcher sends to a worker is a copy of this function


def _take(config: DictConfig) -> float | None:
    """Do a job, in the command's own process or in another, and leave word of it. Gives what a sweeper that searches
    (Optuna's) maximises: the mean validation accuracy, never anything of the test part; None where there is none.
    """
    is_worker = multiprocessing.parent_process() is not None
    if is_worker:
        if asked_to_stop():
            return None
        stop_on_signals()
    code, text, score = _job(config)
    if is_worker:
        for number in (signal.SIGTERM, signal.SIGINT):  # until its next job: the parent hears of it, too
            signal.signal(number, signal.SIG_IGN)
        if is_orphan():
            os._exit(128 + signal.SIGTERM)  # nobody is left to hear more
    elif _here and code > 128:
        sys.exit(code)
    elif _here and not code and score is None and _is_search():
        text = "a search goes by validation accuracy, and these data have no validation part; see conf/tuning/"
        sys.exit(complain(UserError(text)))
    job: list[str] = []
    if is_worker or _here:
        text = ""  # it has been said: their terminal is the command's
    else:
        job = list(HydraConfig.get().overrides.task)
    if code or text:
        try:
            word = Path(f"{os.environ[FAILURES]}-{uuid.uuid4().hex}")
            write_atomically(word, lambda file: file.write("\n".join([str(code), text, *job]).encode()))
        except (WriteError, KeyError):  # the folder cannot be written: at least this process says so
            if code:
                sys.exit(code)
    return score


def _is_search() -> bool:
    """Whether the sweeper is one that asks what a job gave."""
    settings = HydraConfig.get()
    return settings.mode == RunMode.MULTIRUN and not str(settings.sweeper._target_).endswith("BasicSweeper")


def _job(config: DictConfig) -> tuple[int, str, float | None]:
    """Train one config: the exit code, the run's directory or else what went wrong, and its score."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        total = os.environ.get(JOBS, "")
        os.environ[JOB] = f"job {settings.job.num + 1}" + f" of {total}" * bool(total)
    try:
        directory = run(config)
        print(directory.path, flush=True)
        return 0, str(directory.path), validation_accuracy(directory.path)
    except (UserError, Interrupted) as error:
        return complain(error), str(error), None


class CollectFailures(Callback):
    """Says, before anything runs, where jobs leave their exit codes."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._begin(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._begin(config)
        os.environ[JOBS] = str(_number_of_jobs(config) or "")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """What a search has found, in one line."""
        with contextlib.suppress(OSError):
            best = OmegaConf.load(_found(config))
            point = " ".join(f"{key}={value}" for key, value in best.best_params.items())
            say(f"best: {point}, validation ACC {100 * best.best_value:.1f}; also in {_found(config)}")

    def _begin(self, config: DictConfig) -> None:
        if FAILURES in os.environ:
            return
        folder = Path(str(config.output_dir)).absolute() / ".sweep"
        os.environ[FAILURES] = str(folder / f"failure-{uuid.uuid4().hex[:12]}")
        with contextlib.suppress(OSError):  # the run says what is wrong with its folder
            folder.mkdir(parents=True, exist_ok=True)
            _found(config).unlink(missing_ok=True)


def _number_of_jobs(config: DictConfig) -> int:
    """How many jobs a sweep has; 0 where that cannot be told beforehand."""
    sweeper = config.hydra.sweeper
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    given = list(config.hydra.overrides.task)
    keys = {override.partition("=")[0] for override in given}
    stated = [f"{key}={value}" for key, value in (sweeper.params or {}).items() if key not in keys]
    found = OverridesParser.create().parse_overrides([*stated, *given])
    return math.prod(len(list(one.sweep_string_iterator())) for one in found if one.is_sweep_override())


def _found(config: DictConfig) -> Path:
    """Where Optuna's sweeper writes the best trial."""
    return Path(str(config.hydra.sweep.dir)) / "optimization_results.yaml"


if __name__ == "__main__":
    # Imported by its name, so that a parallel launcher can send the job to other processes.
    from multimodal_loss.train import main as entrypoint

    sys.exit(entrypoint())
