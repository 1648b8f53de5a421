"""Weights & Biases: one W&B run per replicate.

Replicates may train together, so as many W&B runs are open at once (`reinit="create_new"`). A run that is resumed after
a kill gets new W&B runs, which begin with the history of the epochs before the kill: every W&B run that finishes shows
a whole curve, offline as online (of the training loss: what was monitored before the kill is not kept). W&B's own
`resume` needs its server, and what was still in W&B's buffers at the kill would be lost.
"""

import csv
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import wandb

from multimodal_loss.results.run_directory import is_logged
from multimodal_loss.trackers import Tracker

# A sweep must not wait for a network that is down: no connection after this long is a failure, and what is not uploaded
# this long after the end is left to `wandb sync`.
CONNECT_SECONDS = 30.0
UPLOAD_SECONDS = 30.0


def start_run(
    mode: Literal["offline", "online"], folder: Path, project: str | None, entity: str | None, **options: Any
) -> wandb.Run:
    """A W&B run beside those already open, with its files in `folder`/wandb; `options` are those of `wandb.init`."""
    folder.mkdir(parents=True, exist_ok=True)
    if mode == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline: nothing leaves this machine
    logging.getLogger("wandb").disabled = True  # its debug log prints a traceback for every line once the disk is full
    settings = wandb.Settings(
        console="off",  # the terminal belongs to all runs, not to one
        silent=True,  # what standard output ends with is ours, and W&B tells of every run twice
        symlink=False,
        disable_code=True,
        x_disable_stats=True,  # several runs share one machine
        init_timeout=CONNECT_SECONDS,
        finish_timeout=UPLOAD_SECONDS,
    )
    where: Any = {"mode": mode, "dir": folder, "project": project, "entity": entity}
    return wandb.init(reinit="create_new", settings=settings, **where, **options)


def whereabouts(run: wandb.Run, folder: Path) -> str:
    """Where to look for a run that `start_run` started, or how to upload it."""
    return f"offline; to upload: wandb sync {folder}/wandb/offline-run-*" if run.offline else f"at {run.project_url}"


class WandbTracker(Tracker):
    """tracker=wandb. Raises whatever wandb raises; `trackers.Guarded` keeps that from training."""

    def __init__(self, config: dict[str, Any], numbers: Sequence[int], run_path: Path) -> None:
        self._history = run_path / "history.csv"
        self._runs: dict[int, wandb.Run] = {}
        self._monitor = config["trainer"]["monitor"]
        self._unlogged: dict[int, tuple[int, dict[str, float]]] = {}  # the latest epoch of a replicate, if not logged
        self._heard = False
        self._status = "interrupted"
        try:
            self._start(config, numbers, run_path)
        except BaseException:
            self.close()
            raise

    def _start(self, config: dict[str, Any], numbers: Sequence[int], run_path: Path) -> None:
        options = config["tracker"]
        folder = Path(options["dir"] or run_path).absolute()
        facts = config["facts"]
        group = "/".join([config["experiment_name"] or "adhoc", facts["dataset"]["name"], facts["method"]["name"]])
        kind = "seed" if config["folds"] is None else "fold"
        to = (options["mode"], folder, options["project"], options["entity"])
        for number in numbers:
            about = {"replicate_id": number, "run": run_path.name, "resumed_from_epoch": 0}
            said = {"name": f"{run_path.name} {kind} {number}", "group": group, "tags": options["tags"]}
            self._runs[number] = start_run(*to, **said, job_type="train", config=config | about)
        if self._runs:
            where = whereabouts(self._runs[number], folder)
            print(f"W&B: {len(self._runs)} runs in group {group}, {where}", file=sys.stderr, flush=True)

    def epoch(
        self, epoch: int, losses: dict[int, float], seconds: float, monitored: dict[int, float] | None = None
    ) -> None:
        if not self._heard:
            self._continue_from(dict.fromkeys(losses, epoch - 1))
        for number, loss in losses.items():
            validation = {} if monitored is None else {self._monitor: monitored[number]}
            self._unlogged[number] = epoch, {"train_loss": loss, "seconds": seconds, **validation}
            if is_logged(epoch):
                self._log_latest(number)

    def finish(self, result: Mapping[str, Any], predictions: Mapping[int, Mapping[str, Any]]) -> None:
        if not self._heard:  # killed after its last epoch
            self._continue_from({})
        for replicate in result["replicates"]:
            self._runs[replicate["replicate_id"]].summary.update(dict(_summary(replicate)))
        self._status = "done"
        for replicate in result["replicates"]:
            number = replicate["replicate_id"]
            shown = {"metrics": _table(replicate), **_figures(number, predictions[number], result)}
            self._runs[number].log(shown, step=replicate["epochs"])

    def fail(self, message: str) -> None:
        self._status = "failed"
        for run in self._runs.values():
            run.summary["error"] = message

    def close(self) -> None:
        """Finish every W&B run and W&B's own process, also when one of them cannot be; then raise what it raised."""
        with ExitStack() as stack:  # calls all, last first, and keeps what was raised
            stack.callback(wandb.teardown)
            for run in self._runs.values():
                stack.callback(run.finish, exit_code=0 if self._status == "done" else 1)
                stack.callback(run.summary.update, {"status": self._status})
            for number in self._unlogged:
                stack.callback(self._log_latest, number)
        self._runs = {}

    def _continue_from(self, last: Mapping[int, int]) -> None:
        """Before the first event: the epochs before this process, which the run directory keeps.

        `last` is the last epoch at the checkpoint of replicates that still train; the others have ended or not begun.
        """
        self._heard = True
        if not self._history.exists():
            return
        with open(self._history, newline="") as file:
            rows = [(int(row["replicate_id"]), int(row["epoch"]), row) for row in csv.DictReader(file)]
        for number, epoch, row in rows:
            if number in self._runs and epoch <= last.get(number, epoch):
                self._runs[number].config.update({"resumed_from_epoch": epoch}, allow_val_change=True)
                self._unlogged[number] = epoch, {key: float(row[key]) for key in ("train_loss", "seconds")}
                self._log_latest(number)

    def _log_latest(self, number: int) -> None:
        """Those that history keeps: the logged epochs and, at the end, a replicate's last one."""
        epoch, values = self._unlogged.pop(number)
        self._runs[number].log(values, step=epoch)


def _sources(replicate: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float | None]]]:
    """Split, source (`fused`, or a modality) and metrics. Some splits have the fused one alone (test_samples)."""
    for split, metrics in replicate["metrics"].items():
        for source, values in {"fused": metrics["fused"], **metrics.get("modalities", {})}.items():
            yield split, source, values


def _summary(replicate: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`epochs`, `stopped` and metrics such as `test/fused/ACC` and `test/m1/NLL`; undefined metrics are left out."""
    yield "epochs", replicate["epochs"]
    yield "stopped", replicate["stopped"]
    for split, source, values in _sources(replicate):
        yield from ((f"{split}/{source}/{metric}", value) for metric, value in values.items() if value is not None)


def _table(replicate: Mapping[str, Any]) -> wandb.Table:
    """Every metric of the fused and of each modality's own prediction, by the softmax of its scores: a row each."""
    rows = list(_sources(replicate))
    names = list(dict.fromkeys(metric for *_, values in rows for metric in values))
    return wandb.Table(["split", "source", *names], [[s, of, *map(v.get, names)] for s, of, v in rows])


def _figures(number: int, predictions: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, wandb.Image]:
    """The report's for one replicate: the paper's Figure 4 (per modality, the probability of the true class over the
    test set), and reliability.
    """
    import PIL.Image

    from multimodal_loss.reporting.figures import base, runs

    keyed = {f"{number}/{key}": array for key, array in predictions.items()}
    figures = runs.replicate_figures(keyed, result["dataset"]["modalities"])
    pngs = {name: io.BytesIO(base.save(figure, "png")) for name, figure in figures.items()}
    return {name: wandb.Image(PIL.Image.open(png)) for name, png in pngs.items()}
