"""Choosing settings on an inner part of the training samples, for each replicate by itself.

Where the dataset has no validation part, it splits the training samples of a replicate again (`inner_folds`:
stratified, by groups, scaled by the inner training part alone). Every point of the grid is trained on the inner
training part and stopped by the other, the validation part; the one with the least NLL there, after one temperature,
is chosen (of equals the first), with its number of epochs and its temperature. Then the replicate is trained on all its
training samples, that long. No test sample plays any role.

NLL after a temperature, and not accuracy: of a hundred validation samples many settings get the same number right, and
a method whose probabilities are shy by construction shall not lose for it.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from multimodal_loss.configuration import Planned, RunConfig, TrainerConfig, TuningConfig, run_hash
from multimodal_loss.datasets import Dataset
from multimodal_loss.errors import TrainingError
from multimodal_loss.results.metrics import compute_metrics, fit_temperature, tempered
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.evaluate import conclude, predict, validation_split
from multimodal_loss.training.loop import TrainingState
from multimodal_loss.training.replicate import Recipe, Replicate

# Trains a replicate of a dataset from the start; its checkpoints go into the directory given.
TrainOne = Callable[[RunConfig, Dataset, Planned, RunDirectory], tuple[Replicate, Recipe, TrainingState]]


@dataclass(frozen=True)
class Trial:
    """A point of the grid. `score` is what is compared, less is better: infinity where training failed."""

    values: dict[str, Any]
    score: float
    accuracy: float | None = None
    epochs: int = 0  # up to the best iterate; 0 for what is fitted
    temperature: float = 1.0
    error: str | None = None


@dataclass(frozen=True)
class Tuned:
    """What was tried for a replicate, in the order of the grid."""

    trials: tuple[Trial, ...]

    @property
    def chosen(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.score)

    def settings(self, settings: RunConfig) -> RunConfig:
        """For training on all samples: the values that were chosen, and as many epochs."""
        epochs = max(self.chosen.epochs, 1)
        trainer = replace(settings.trainer, max_epochs=epochs, patience=epochs + 1, monitor=None, keep=None)
        return replace(settings.with_values(self.chosen.values), trainer=trainer)

    def report(self) -> dict[str, Any]:
        """For result.json."""
        trials = [asdict(t) | {"score": t.score if math.isfinite(t.score) else None} for t in self.trials]
        return {"tuning": {"chosen": self.chosen.values, "trials": trials}}


def run_alone(settings: RunConfig, planned: Planned) -> RunDirectory:
    """Of the run that has one replicate of a run's, and the same config otherwise."""
    return RunDirectory.of(Path(settings.output_dir), settings.name, run_hash(settings, [planned]))


class Tuner:
    """Tunes the replicates of a run; every trial that has ended is kept in its directory, for when it is continued, and
    for the run of all replicates where this is one of them alone.

    `source` is the identity of the data: what was tried on others does not count.
    """

    def __init__(
        self,
        settings: RunConfig,
        options: TuningConfig,
        directory: RunDirectory,
        source: dict[str, Any],
        dataset: Dataset,
        make_dataset: Callable[[RunConfig], Dataset],
        train: TrainOne,
    ) -> None:
        self._settings, self._options, self._directory, self._source = settings, options, directory, source
        self._dataset, self._make_dataset, self._train = dataset, make_dataset, train
        self._split_again: Dataset | None = None
        self._scratch = RunDirectory(directory.path / ".trial")
        self._known = self._read(directory)

    def tune(self, planned: Planned, device: torch.device) -> Tuned:
        """Raises TrainingError if no trial can be trained, UserError if the dataset cannot be split."""
        key = str(planned.replicate_id)
        trials = self._known.get(key) or self._read(run_alone(self._settings, planned)).get(key, [])
        if all(math.isinf(trial.score) for trial in trials):
            trials = []  # a run that failed is tried again
        for values in self._options.points():
            if not any(trial.values == values for trial in trials):
                trials = [*trials, self._try(values, planned, device)]
            if trials != self._known.get(key):
                self._keep(key, trials)
        if all(math.isinf(trial.score) for trial in trials):
            raise TrainingError(f"tuning replicate {key}: no trial could be trained; the first: {trials[0].error}")
        return Tuned(tuple(trials))

    def _keep(self, key: str, trials: list[Trial]) -> None:
        self._known[key] = trials
        content = {key: [asdict(trial) for trial in trials] for key, trials in self._known.items()}
        self._directory.write_text("tuning.json", json.dumps({"data": self._source, "tuned": content}))

    def _try(self, values: dict[str, Any], planned: Planned, device: torch.device) -> Trial:
        settings = self._settings.with_values(values)
        settings = replace(settings, trainer=_monitored(settings.trainer, self._options))
        self._scratch.create()
        try:
            replicate, recipe, state = self._train(settings, self._inner(planned), planned, self._scratch)
            conclude(replicate, recipe, device)
            prediction = predict(replicate, validation_split(replicate), recipe, device)
        except TrainingError as error:
            return Trial(values, math.inf, error=str(error))
        finally:
            shutil.rmtree(self._scratch.path, ignore_errors=True)
        target, fused = prediction["target"], prediction["fused"]
        temperature = fit_temperature(target, fused)
        metrics = compute_metrics(target, tempered(fused, temperature))
        ended, number = state.stopped[planned.replicate_id], planned.replicate_id
        epochs = ended["epochs"] - (state.stopping[number].stale if number in state.stopping else 0)
        return Trial(values, float(metrics["NLL"] or 0.0), metrics["ACC"], epochs, temperature)

    def _inner(self, planned: Planned) -> Dataset:
        """What has the inner training part and the validation part of the replicate."""
        if self._dataset.load(planned.fold).validation is not None:
            return self._dataset
        if self._split_again is None:
            inner = {"inner_folds": self._options.inner_folds, "inner_fold": 0}
            settings = replace(self._settings, dataset={**self._settings.dataset, **inner})
            self._split_again = self._make_dataset(settings)
        return self._split_again

    def _read(self, directory: RunDirectory) -> dict[str, list[Trial]]:
        """The trials that a run's directory holds, by replicate id: of one that was stopped those that had ended."""
        try:
            content = json.loads((directory.path / "tuning.json").read_text(encoding="utf-8"))
            if content["data"] != self._source:
                return {}
            return {key: [Trial(**one) for one in trials] for key, trials in content["tuned"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _monitored(trainer: TrainerConfig, options: TuningConfig) -> TrainerConfig:
    """That of a trial, which ends, and counts its epochs, by the iterate that it keeps."""
    return replace(
        trainer,
        monitor=trainer.keep or trainer.monitor or "validation_NLL",
        keep=None,
        max_epochs=options.max_epochs or trainer.max_epochs,
    )
