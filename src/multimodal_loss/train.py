"""The one training entrypoint.

    python -m multimodal_loss.train dataset=synthetic dataset.noisy_modalities=2 backbone=mlp fusion=multimodal

trains every replicate of one config and fills one run directory; `-m` sweeps. Exit code 0: done, now or before; 1:
training failed; 2: a value or a file that the user can mend; 128 + n: stopped by signal n, with a checkpoint written
(or, while a replicate that has ended is evaluated, with the one written just before).
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from multimodal_loss.configuration import CONFIG_DIR, check_overrides, config_hash, resolved, run_name_of
from multimodal_loss.datasets import Dataset, MultimodalData
from multimodal_loss.errors import TrainingError, UserError, require_choice, require_number
from multimodal_loss.fusion import Fusion
from multimodal_loss.results.run_directory import RunDirectory, WriteError, git_state, hardware, now, package_versions
from multimodal_loss.trackers import NoTracker, Tracker, make_tracker
from multimodal_loss.training.collapsed import CollapsedStack, can_collapse
from multimodal_loss.training.evaluate import (
    fit_ensemble,
    metrics_of,
    per_sample_metrics,
    predict,
    proxy_counts,
    training_outputs,
    validation_split,
    windows_per_recording,
)
from multimodal_loss.training.logistic import train_logistic
from multimodal_loss.training.loop import (
    Interrupted,
    LoopOptions,
    Observer,
    TrainingState,
    resume,
    save_checkpoint,
    train,
)
from multimodal_loss.training.progress import Progress
from multimodal_loss.training.replicate import OptimizerOptions, Replicate, make_replicate
from multimodal_loss.training.stack import MiniBatchStack, ModuleStack, Stack

# Keys of a dataset's config that are for others: names, and what other groups interpolate.
NOT_DATASET_OPTIONS = (
    "name",
    "run_name",
    "how_to_get",
    "default_folds",
    "default_data_seeds",
    "learning_rates",
    "modules",
    "logistic_C",
)

# Jobs of a sweep may run in other processes: each appends the exit code of its failure to the file named here.
FAILURES = "MULTIMODAL_LOSS_FAILURES"


def main() -> int:
    """Check what the user typed, let Hydra run one job or a sweep, and give the worst exit code of its jobs."""
    try:
        multirun = not {"-m", "--multirun"}.isdisjoint(sys.argv)
        check_overrides([a for a in sys.argv[1:] if "=" in a and not a.startswith("-")], multirun)
    except UserError as error:
        return _complain(error, 2)
    with tempfile.NamedTemporaryFile("w+", prefix="multimodal-loss-") as failures:
        os.environ[FAILURES] = failures.name
        try:
            _hydra_main()
        except KeyboardInterrupt:
            return _complain(Interrupted(signal.SIGINT), 128 + signal.SIGINT)
        return max((int(code) for code in Path(failures.name).read_text().split()), default=0)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _hydra_main(config: DictConfig) -> None:
    try:
        print(run(config).path)
    except Interrupted as interruption:
        sys.exit(_complain(interruption, 128 + interruption.signal_number))
    except UserError as error:
        code = 1 if isinstance(error.__cause__, (TrainingError, WriteError)) else 2
        with open(os.environ[FAILURES], "a") as failures:
            failures.write(f"{_complain(error, code)}\n")


def _complain(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


# What RuntimeErrors say of it on CPU and MPS.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


class Planned(NamedTuple):
    """A replicate before anything is loaded or drawn; `number` names it in every file."""

    number: int
    seed: int
    fold: int | None


class FailedRun(UserError):
    """A run began and failed; its result.json says so."""


def run(config: DictConfig) -> RunDirectory:
    """Train one config unless its run directory is done already.

    Raises UserError for a bad value or missing data, FailedRun if training failed, Interrupted on SIGTERM or SIGINT.
    """
    values = resolved(config)
    device = choose_device(values["device"])
    if values["threads"] is not None:
        require_number("threads", values["threads"], positive=True, integer=True)
        torch.set_num_threads(values["threads"])
    if not isinstance(values["output_dir"], str):
        raise UserError(f"output_dir={values['output_dir']}: must name a folder")
    directory = RunDirectory(Path(values["output_dir"]) / run_name_of(values))
    directory.create()

    def waiting() -> None:
        print(f"another process is training {directory.path}; waiting for it", file=sys.stderr, flush=True)

    with directory.locked(waiting):
        if not directory.is_done():
            _train(config, values, directory, device)
        elif _changed_since(directory, values["dataset"].get("path")):
            print(f"warning: the data changed after {directory.path} ended; delete it to train again", file=sys.stderr)
    return directory


def _changed_since(directory: RunDirectory, data: str | None) -> bool:
    """Whether a file of the dataset's folder is newer than the run's result."""
    if data is None or not Path(data).is_dir():
        return False
    files = [path for path in Path(data).iterdir() if path.exists()]  # not a link to nowhere
    return max((path.stat().st_mtime for path in files), default=0.0) > directory.result.stat().st_mtime


def choose_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here ({str(error).splitlines()[0]}); try device=auto") from error


def _train(config: DictConfig, values: dict[str, Any], directory: RunDirectory, device: torch.device) -> None:
    directory.result.unlink(missing_ok=True)  # of an attempt that failed
    directory.write_text("config.yaml", OmegaConf.to_yaml(config, resolve=True))
    result = _provenance(values, device)
    tracker: Tracker = NoTracker()
    try:
        dataset = make_dataset(config)
        plan = plan_replicates(values, dataset)
        tracker = make_tracker(values, [planned.number for planned in plan], directory.path)
        predictions: dict[int, Any] = {}
        state = resume(directory)
        with Progress(values["name"], enabled=values["progress"]) as progress:
            for group in replicate_groups(config, values, dataset, plan):
                had_ended = all(replicate.number in state.stopped for replicate in group)
                state = _fit(values, group, directory, device, [progress, tracker], state)
                # The evaluation may be killed, too. What a checkpoint says of a later group is never written over.
                if not had_ended:
                    save_checkpoint(directory, group, None, state)
                result.setdefault("dataset", _describe(values, group[0]))
                for replicate in group:
                    report = _evaluate(replicate, values, device, predictions)
                    result["replicates"].append({**_identity(replicate), **state.stopped[replicate.number], **report})
                state.keep(group)
        directory.write_predictions(predictions)
        save_checkpoint(directory, [], None, state)
        result.update(status="done", ended=now())
        directory.write_result(result)
        tracker.finish(result, predictions)
    except Interrupted:
        raise
    except Exception as caught:
        error = caught if isinstance(caught, UserError) else _out_of_memory(caught, values, device)
        reason = str(error or f"{type(caught).__name__}: {caught}")
        tracker.fail(reason)
        directory.write_result({**result, "status": "failed", "error": reason, "ended": now()})
        if error is None:  # a bug of ours: its traceback is wanted
            raise
        raise FailedRun(reason) from error
    finally:
        tracker.close()


def _out_of_memory(error: Exception, values: dict[str, Any], device: torch.device) -> TrainingError | None:
    """What to do about too little memory; None for another error. PyTorch has a type for it on CUDA alone."""
    named = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    if not named and not told:
        return None
    size = values["trainer"]["batch_size"]
    cure = "try a smaller trainer.batch_size" if size else "try trainer.batch_size=100, which trains in mini-batches"
    return TrainingError(f"out of memory on {device} ({' '.join(str(error).split())[:200]}); {cure}")


def require_folder(dataset: dict[str, Any]) -> None:
    """Raise UserError, with the way to get it, if the folder that a dataset's config names does not exist."""
    path = dataset.get("path")
    if path is not None and not Path(path).exists():
        raise UserError(f"{path} does not exist; to get it: {dataset.get('how_to_get', 'give another dataset.path')}")


def make_dataset(config: DictConfig) -> Dataset:
    require_folder(resolved(config.dataset))
    dataset: Dataset = _build(_without(config.dataset, *NOT_DATASET_OPTIONS), "dataset")
    return dataset


def plan_replicates(values: dict[str, Any], dataset: Dataset) -> list[Planned]:
    """A replicate a seed where there is one split, otherwise a replicate a fold, all with the first seed."""
    seeds, folds = _numbers("seeds", values["seeds"]), values["folds"]
    if folds == "auto":
        folds = None if dataset.num_folds is None else list(range(dataset.num_folds))
    if folds is None:
        return [Planned(seed, seed, None) for seed in seeds]
    if dataset.num_folds is None:
        raise UserError(f"folds={folds}: this dataset has one fixed split; leave folds null and choose seeds")
    numbers = _numbers("folds", folds)
    if max(numbers) >= dataset.num_folds:
        raise UserError(f"folds={folds}: this dataset has folds 0 to {dataset.num_folds - 1}")
    return [Planned(fold, seeds[0], fold) for fold in numbers]


def replicate_groups(
    config: DictConfig, values: dict[str, Any], dataset: Dataset, plan: list[Planned]
) -> Iterator[list[Replicate]]:
    """Replicates that train together: all where the collapsed product holds, otherwise each when its turn comes.

    Every replicate's initial weights are drawn from its own seed.
    """
    if plan[0].fold is not None or values["trainer"]["batch_size"] is not None:
        yield from ([make_planned(config, values, dataset, planned)] for planned in plan)
        return
    replicates = [make_planned(config, values, dataset, planned) for planned in plan]
    if _together(values, replicates):
        yield replicates
    else:
        yield from ([replicate] for replicate in replicates)


def _together(values: dict[str, Any], replicates: list[Replicate]) -> bool:
    return values["trainer"]["path"] == "auto" and _optimizer(values, 0).is_plain_adam and can_collapse(replicates)


def make_planned(config: DictConfig, values: dict[str, Any], dataset: Dataset, planned: Planned) -> Replicate:
    """Load a replicate's data and build it."""

    def make_backbone(data: MultimodalData) -> torch.nn.Module:
        options = {k: of_replicate(v, planned.number) if k == "modules" else v for k, v in values["backbone"].items()}
        node = _without(OmegaConf.create(options), "name")
        backbone: torch.nn.Module = _build(
            node, "backbone", feature_shapes=data.feature_shapes, num_classes=len(data.classes)
        )
        return backbone

    def make_fusion(num_classes: int, num_modalities: int) -> Fusion:
        node = _without(config.fusion, "name", "input", "proxy_lr_multiplier")
        fusion: Fusion = _build(node, "fusion", num_classes=num_classes, num_modalities=num_modalities)
        return fusion

    data = dataset.load(planned.fold)
    return make_replicate(planned.number, planned.seed, planned.fold, data, make_backbone, make_fusion)


def of_replicate(value: Any, number: int) -> Any:
    """A value that may be given once or as a list with one for each fold."""
    if not isinstance(value, list):
        return value
    if number >= len(value):
        raise UserError(f"{value}: the list has no entry for fold {number}; give one number, or one for each fold")
    return value[number]


def _numbers(key: str, value: Any) -> list[int]:
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        require_number(key, number, integer=True)
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"{key}={numbers}: give at least one, each once")
    return numbers


def _without(node: DictConfig, *keys: str) -> DictConfig:
    """The node that builds an object, without the keys that are for others."""
    return OmegaConf.create({key: value for key, value in resolved(node).items() if key not in keys})


def _build(node: DictConfig, group: str, **extra: Any) -> Any:
    try:
        return instantiate(node, _convert_="all", **extra)
    except hydra.errors.InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, (ValueError, TypeError)):
            raise UserError(f"bad value in {group}: {error.__cause__}") from error
        raise


def _optimizer(values: dict[str, Any], number: int) -> OptimizerOptions:
    trainer = values["trainer"]
    if not isinstance(trainer["betas"], list):
        raise UserError(f"trainer.betas={trainer['betas']}: give two numbers from 0 to below 1, such as [0.9,0.999]")
    return OptimizerOptions(
        lr=of_replicate(trainer["lr"], number),
        weight_decay=trainer["weight_decay"],
        betas=tuple(trainer["betas"]),
        eps=trainer["eps"],
        proxy_lr_multiplier=values["fusion"]["proxy_lr_multiplier"],
        name=trainer["optimizer"],
        alpha=trainer["alpha"],
        lr_decay=trainer["lr_decay"],
        lr_decay_epochs=trainer["lr_decay_epochs"],
    )


def _fit(
    values: dict[str, Any],
    group: list[Replicate],
    directory: RunDirectory,
    device: torch.device,
    observers: list[Observer],
    state: TrainingState,
) -> TrainingState:
    trainer, kind = values["trainer"], values["fusion"]["input"]
    require_choice("trainer.path", trainer["path"], ("auto", "ordinary", "logistic"))
    require_choice("fusion.input", kind, ("probabilities", "logits"))
    if trainer["path"] == "logistic":
        (replicate,) = group
        state.stopped[replicate.number] = train_logistic(replicate, trainer["C"], kind)
        return state
    options = LoopOptions(
        trainer["max_epochs"],
        trainer["min_delta"],
        trainer["patience"],
        values["checkpoint_seconds"],
        trainer["monitor"],
    )
    if options.monitor is not None:
        for replicate in group:
            validation_split(replicate)  # now, and not after an epoch
    optimizer = _optimizer(values, group[0].number)
    stack: Stack
    if trainer["batch_size"] is not None:
        (replicate,) = group
        stack = MiniBatchStack(replicate, optimizer, kind, device, trainer["batch_size"])
    elif _together(values, group):
        stack = CollapsedStack(group, optimizer, kind, device)
    else:
        stack = ModuleStack(group, optimizer, kind, device)
    return train(group, stack, options, directory, observers, state)


def _evaluate(
    replicate: Replicate, values: dict[str, Any], device: torch.device, predictions: dict[int, Any]
) -> dict[str, Any]:
    kind, data = values["fusion"]["input"], replicate.data
    replicate.backbone.to(device).eval()
    replicate.fusion.to(device).eval()
    fit_ensemble(replicate, device)
    test = predictions[replicate.number] = predict(replicate, data.test, kind, device)
    metrics = {"test": metrics_of(test, replicate.score_names)}
    per_sample = per_sample_metrics(test, data.test)
    if per_sample is not None:
        metrics["test_samples"] = per_sample
    if data.validation is not None:
        metrics["validation"] = metrics_of(predict(replicate, data.validation, kind, device), replicate.score_names)
    if values["store_training_outputs"]:
        test |= training_outputs(replicate, kind, device)
    return {"metrics": metrics, "proxies": proxy_counts(replicate, kind, device)}


def _identity(replicate: Replicate) -> dict[str, Any]:
    return {
        "replicate": replicate.number,
        "seed": replicate.seed,
        "fold": replicate.fold,
        "data_fingerprint": replicate.data.fingerprint,
    }


def _describe(values: dict[str, Any], replicate: Replicate) -> dict[str, Any]:
    """The dataset as the run saw it. `modalities` names the scores, `inputs` what they (or a joint one) come from."""
    data = replicate.data
    sizes = {
        "train": len(data.train),
        "validation": len(data.validation) if data.validation else 0,
        "test": len(data.test),
    }
    recordings = windows_per_recording(data.test)
    return {
        "name": values["dataset"]["name"],
        "modalities": replicate.score_names,
        "inputs": data.modalities,
        "classes": data.classes,
        "sizes": sizes,
        **({} if recordings is None else {"recordings": recordings}),
    }


def _provenance(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "status": "running",
        "error": None,
        "name": values["name"],
        "hash": config_hash(values),
        "experiment": values["experiment_name"],
        "profile": values["profile"],
        "config": values,
        "git": git_state(),
        "versions": package_versions(),
        "hardware": hardware(gpu, torch.get_num_threads()),
        "device": str(device),
        "started": now(),
        "replicates": [],
    }


if __name__ == "__main__":
    # Imported by its name, so that a parallel launcher can send the job to other processes.
    from multimodal_loss.train import main as entrypoint

    sys.exit(entrypoint())
