"""One run, from its config to its result: data, replicates, training, evaluation, files. Read it from top to bottom."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from multimodal_loss.configuration import Planned, RunConfig, data_version, of_replicate, run_hash
from multimodal_loss.datasets import Dataset
from multimodal_loss.datasets.cache import sha256
from multimodal_loss.errors import MissingData, TrainingError, UserError, say, shown
from multimodal_loss.fusion import Fusion
from multimodal_loss.results.collect import aggregate, read_run
from multimodal_loss.results.run_directory import RunDirectory, git_state, hardware, now, package_versions
from multimodal_loss.trackers import Tracker, make_tracker
from multimodal_loss.training.collapsed import CollapsedTrainer, can_collapse
from multimodal_loss.training.evaluate import evaluate, validation_split
from multimodal_loss.training.group_trainer import GroupTrainer, OrdinaryTrainer
from multimodal_loss.training.loop import TrainingState, resume, save_checkpoint, train
from multimodal_loss.training.progress import Progress
from multimodal_loss.training.replicate import Recipe, Replicate, make_replicate
from multimodal_loss.training.tuning import Tuned, Tuner, run_alone

DEVICES = ("cuda", "mps", "cpu")
# What RuntimeErrors say of it on CPU and MPS.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


class FailedRun(UserError):
    """A run began and failed; its result.json says so."""


def run(config: DictConfig) -> RunDirectory:
    """Train one config, unless its run directory is done with the data as they are now and all that is to be stored.

    Raises UserError for a bad value or missing data, FailedRun if training failed, Interrupted on SIGTERM or SIGINT.
    """
    settings = RunConfig.parse(config)
    device = choose_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    dataset = make_dataset(settings)
    plan = settings.plan(dataset.num_folds)
    pretrained = pretrained_weights(settings)
    directory = RunDirectory.of(Path(settings.output_dir), settings.name, run_hash(settings, plan))
    directory.create()

    def waiting() -> None:
        say(f"another process is training {directory.path}; waiting for it")

    with directory.locked(waiting):
        source = {"fingerprint": dataset.fingerprint(), "version": data_version(settings), **pretrained}
        done_before = directory.is_done()
        if done_before and directory.content().get("data") != source:
            done_before = False
            kept = directory.set_aside()
            what = "the data or pretrained weights" if pretrained else "the data"
            text = f"warning: {what} changed after {directory.path} ended: training again, the old run is in {kept}"
            say(text)
        if done_before and settings.store_training_outputs:
            # Where they were not stored the run is evaluated again: its weights are in the checkpoint.
            done_before = bool(directory.content()["config"].get("store_training_outputs"))
        if not done_before:
            directory.write_text("config.yaml", OmegaConf.to_yaml(config, resolve=True))
            _train(settings, dataset, plan, directory, device, source)
    if settings.progress:
        say(f"{directory.path.name}: {'done before, ' if done_before else ''}{score(directory.path)}")
    return directory


def score(path: Path) -> str:
    """The test accuracy of a done run in percent, mean and sample standard deviation over its replicates."""
    stored = read_run(path)
    accuracy = aggregate(100 * value for value in stored.values("test/fused/ACC").values())
    if accuracy.mean is None:
        return "no test accuracy"
    kind = "seed" if all(replicate.get("fold") is None for replicate in stored.replicates.values()) else "fold"
    spread = "" if accuracy.sd is None else f" ± {accuracy.sd:.1f}"
    return f"test ACC {accuracy.mean:.1f}{spread} ({accuracy.n} {kind}{'s' * (accuracy.n != 1)})"


def validation_accuracy(path: Path) -> float | None:
    """The mean of a done run over its replicates; None where the data have no validation part."""
    return aggregate(read_run(path).values("validation/fused/ACC").values()).mean


def _train(
    settings: RunConfig,
    dataset: Dataset,
    plan: Sequence[Planned],
    directory: RunDirectory,
    device: torch.device,
    source: dict[str, Any],
) -> None:
    directory.result.unlink(missing_ok=True)  # of an attempt that failed
    result = {**_provenance(settings, directory, device), "data": source, "replicates": []}
    tracker = Tracker()
    try:
        tracker = make_tracker(settings.values, [planned.replicate_id for planned in plan], directory.path)
        predictions: dict[int, Any] = {}
        state = resume(directory)
        most = settings.trainer.max_epochs
        with Progress(settings.name, settings.progress, len(plan), most) as progress:

            def train_one(
                of_trial: RunConfig, inner: Dataset, planned: Planned, scratch: RunDirectory
            ) -> tuple[Replicate, Recipe, TrainingState]:
                replicate = make_planned(of_trial, inner, planned)
                recipe = make_recipe(of_trial, replicate)
                return replicate, recipe, _fit(of_trial, [replicate], recipe, scratch, device, [], TrainingState())

            tuner = None
            if settings.tuning is not None:
                tuner = Tuner(settings, settings.tuning, directory, source, dataset, make_dataset, train_one)
                print(f"{settings.name}: {settings.tuning}", file=sys.stderr, flush=True)
            for group, tuned in replicate_groups(settings, dataset, plan, tuner, device):
                recipe = make_recipe(settings if tuned is None else tuned.settings(settings), group[0])
                if "backbone" not in result:
                    result["backbone"] = described(group[0].backbone, settings.name)
                _take_over(settings, group, tuned, source, directory, state)
                progress.begin(len(result["replicates"]), len(group))
                had_ended = all(replicate.replicate_id in state.stopped for replicate in group)
                state = _fit(settings, group, recipe, directory, device, [progress, tracker], state)
                # The evaluation may be killed, too. What a checkpoint says of a later group is never written over.
                if not had_ended:
                    save_checkpoint(directory, group, None, state)
                result.setdefault("dataset", _describe(settings, dataset, group[0]))
                for replicate in group:
                    temperature = None if tuned is None else tuned.chosen.temperature
                    stored = settings.store_training_outputs
                    prediction, report = evaluate(replicate, recipe, device, stored, temperature)
                    report |= {} if tuned is None else tuned.report()
                    predictions[replicate.replicate_id] = prediction
                    ended = state.stopped[replicate.replicate_id]
                    result["replicates"].append({**_identity(replicate), **ended, **report})
                state.keep(group)
        directory.write_predictions(predictions)
        save_checkpoint(directory, [], None, state)
        result.update(status="done", ended=now())
        directory.write_result(result)
        tracker.finish(result, predictions)
    except Exception as caught:
        error = caught if isinstance(caught, UserError) else _out_of_memory(caught, settings, device)
        reason = str(error or f"{type(caught).__name__}: {caught}")
        tracker.fail(reason)
        directory.write_result({**result, "status": "failed", "error": reason, "ended": now()})
        if error is None:  # a bug of ours: its traceback is wanted
            raise
        raise FailedRun(reason) from error
    finally:
        tracker.close()


def _take_over(
    settings: RunConfig,
    group: Sequence[Replicate],
    tuned: Tuned | None,
    source: dict[str, Any],
    directory: RunDirectory,
    state: TrainingState,
) -> None:
    """Put into `state` how the replicates of a group ended that were all trained as runs of their own (seeds=[3], say):
    jobs of one seed each become the run of all seeds without training again. `tuned`: only what the same trials chose.
    """
    if hasattr(group[0].backbone, "fit"):
        return  # fitted anew in a moment; no loop has counted its epochs or noted its data
    found: dict[int, TrainingState] = {}
    for replicate in group:
        number = replicate.replicate_id
        alone = run_alone(settings, Planned(number, replicate.seed, replicate.fold))
        if number in state.weights or alone.hash == directory.hash or not alone.is_done():
            return
        content, tuning = alone.content(), None if tuned is None else tuned.report()["tuning"]
        if content.get("data") != source or content["replicates"][0].get("tuning") != tuning:
            return
        found[number] = resume(alone)
        if number not in found[number].weights or number not in found[number].stopped:
            return
    for number, there in found.items():
        state.weights[number], state.stopped[number] = there.weights[number], there.stopped[number]
        state.fingerprints[number] = there.fingerprints[number]
        state.history += there.history


def replicate_groups(
    settings: RunConfig, dataset: Dataset, plan: Sequence[Planned], tuner: Tuner | None, device: torch.device
) -> Iterator[tuple[list[Replicate], Tuned | None]]:
    """Replicates that train together: all where the collapsed product holds, otherwise each when its turn comes, after
    it has been tuned.

    Every replicate's initial weights are drawn from its own seed.
    """
    if tuner is not None:
        for planned in plan:
            tuned = tuner.tune(planned, device)
            yield [make_planned(tuned.settings(settings), dataset, planned)], tuned
        return
    if plan[0].fold is not None or not settings.trainer.is_plain:
        yield from (([make_planned(settings, dataset, planned)], None) for planned in plan)
        return
    replicates = [make_planned(settings, dataset, planned) for planned in plan]
    if can_collapse(replicates, make_recipe(settings, replicates[0])):
        yield replicates, None
    else:
        yield from (([replicate], None) for replicate in replicates)


def _fit(
    settings: RunConfig,
    group: list[Replicate],
    recipe: Recipe,
    directory: RunDirectory,
    device: torch.device,
    observers: list[Any],
    state: TrainingState,
) -> TrainingState:
    """Train one group, by its backbones' own `fit` or by the epoch loop; `state` as `train` has it."""
    if hasattr(group[0].backbone, "fit"):
        (replicate,) = group
        state.stopped[replicate.replicate_id] = fit_directly(replicate, recipe)
        return state
    if recipe.trainer.monitor is not None:
        for replicate in group:
            validation_split(replicate)  # now, and not after an epoch
    trainer: GroupTrainer
    if can_collapse(group, recipe):
        trainer = CollapsedTrainer(group, recipe, device)
    else:
        trainer = OrdinaryTrainer(group[0], recipe, device)
    return train(group, trainer, recipe.trainer, directory, settings.checkpoint_seconds, observers, state)


def fit_directly(replicate: Replicate, recipe: Recipe) -> dict[str, Any]:
    """A backbone with a `fit` of its own; what the epoch loop would say of a replicate that has ended."""
    backbone, fusion, train = replicate.backbone, replicate.fusion, replicate.data.train
    if recipe.fusion_input != "logits" or list(fusion.parameters()):  # of probabilities it would take a second softmax
        raise UserError(
            f"{type(backbone).__name__} is fitted, not trained: take a fusion without parameters on logits, as "
            "method=logistic does (fusion=unimodal fusion_input=logits)"
        )
    started = time.monotonic()
    rows = train.rows(slice(None))
    backbone.fit(rows, train.target)  # type: ignore[operator]
    with torch.no_grad():
        loss = float(fusion(backbone(rows), train.target))
    return {"epochs": 0, "stopped": "fitted", "seconds": time.monotonic() - started, "last_loss": loss}


# --- building


def choose_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in DEVICES or (device.type == "cpu" and device.index):
            raise RuntimeError(f"give auto, or one of {', '.join(DEVICES)}")
        device = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here ({str(error).splitlines()[0]}); try device=auto") from error
    return device


def make_dataset(settings: RunConfig) -> Dataset:
    """Raises MissingData, with the way to get them, where its files are not there."""
    try:
        dataset: Dataset = build(settings.dataset, "dataset")
        dataset.require_files()
    except MissingData as error:
        how = settings.facts["dataset"].get("how_to_get")
        cure = f"to get it: {how}" if how else "give another dataset.path"
        raise MissingData(f"{error}; {cure}") from error
    return dataset


def pretrained_weights(settings: RunConfig) -> dict[str, Any]:
    """What identifies the backbone's file of pretrained weights, if it starts from one. Of a mapping of several files,
    each may be lacking, which is part of the identity: with the file there, the run is trained again.
    """
    given = settings.backbone.get("pretrained")
    if isinstance(given, dict):
        there = {key: path is not None and Path(str(path)).is_file() for key, path in given.items()}
        return {"pretrained": {key: _identity_of(path) if there[key] else None for key, path in given.items()}}
    return {} if given is None else {"pretrained": _identity_of(given)}


def _identity_of(path: object) -> str:
    try:
        return sha256(str(path))
    except OSError as error:
        raise UserError(f"backbone.pretrained={path}: cannot be read ({error.strerror or error})") from error


def make_planned(settings: RunConfig, dataset: Dataset, planned: Planned) -> Replicate:
    """Load a replicate's data and build it."""
    data, position = dataset.load(planned.fold), planned.fold or 0

    def make_backbone(_: Any) -> Any:
        options = {"feature_shapes": data.feature_shapes, "num_classes": len(data.classes)}
        return build(of_replicate(settings.backbone, position), "backbone", **options)

    def make_fusion(num_classes: int, num_modalities: int) -> Fusion:
        options = {"num_classes": num_classes, "num_modalities": num_modalities}
        fusion: Fusion = build(of_replicate(settings.fusion, position), "fusion", **options)
        if fusion.reduction != "mean":
            raise UserError(
                f"fusion.reduction={fusion.reduction}: what is trained and monitored is the mean; leave it out"
            )
        return fusion

    one = make_replicate(planned.replicate_id, planned.seed, planned.fold, data, make_backbone, make_fusion)
    joint = len(one.score_names) < len(data.modalities) or hasattr(one.backbone, "fit")
    if data.train.mask is not None and (joint or not one.fusion.reads_mask):
        name = type(one.backbone if joint else one.fusion).__name__
        raise UserError(f"dataset.missing=mask: {name} needs every modality of a sample; take another, or missing=drop")
    return one


def make_recipe(settings: RunConfig, replicate: Replicate) -> Recipe:
    position = replicate.fold or 0
    optimizer = build(of_replicate(settings.optimizer, position), "optimizer")
    node = of_replicate(settings.scheduler, position)
    scheduler = None if node is None else build(node, "scheduler")
    recipe = Recipe(optimizer, settings.trainer, settings.fusion_input, scheduler, settings.workers)
    if recipe.lr <= 0:
        raise UserError(f"optimizer.lr={recipe.lr:g}: must be a number above 0")
    return recipe


def build(node: Any, group: str, **extra: Any) -> Any:
    """What a node of the config describes; one line about the group where it cannot be, or is too large."""
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, (ValueError, TypeError)):
            raise UserError(f"bad value in {group}: {cause}") from error
        if cause is not None and _is_out_of_memory(cause):
            what = _largest(group, node)
            raise TrainingError(f"out of memory while the {group} is built ({cause}); make {what} smaller") from error
        raise


def _largest(group: str, node: dict[str, Any]) -> str:
    """The option that holds the largest number, as it is given: what makes a model large."""

    def size(value: Any) -> float:
        if isinstance(value, (list, tuple)):
            return max(map(size, value), default=0.0)
        return float(value) if isinstance(value, (int, float)) else 0.0

    key = max(node, key=lambda key: size(node[key]))
    return f"{group}.{key}={shown(node[key])}" if size(node[key]) else "it"


# --- what result.json says


def _identity(replicate: Replicate) -> dict[str, Any]:
    return {
        "replicate_id": replicate.replicate_id,
        "seed": replicate.seed,
        "fold": replicate.fold,
        "data_fingerprint": replicate.data.fingerprint,
    }


def _describe(settings: RunConfig, dataset: Dataset, replicate: Replicate) -> dict[str, Any]:
    """The dataset as the run saw it. `modalities` names the scores, `inputs` what they (or a joint one) come from."""
    data = replicate.data
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "name": settings.facts["dataset"]["name"],
        "modalities": replicate.score_names,
        "inputs": data.modalities,
        "classes": data.classes,
        "sizes": {name: 0 if part is None else len(part) for name, part in parts.items()},
        "generated": getattr(dataset, "generated", False),
        **data.test.description(),
    }


def described(backbone: nn.Module, name: str) -> dict[str, Any]:
    """What the backbone says of itself. Its `notice`, which stands with all numbers that come of it, is printed."""
    description = dict(getattr(backbone, "description", dict)())
    if "notice" in description:
        print(f"warning: {name}: {description['notice']}", file=sys.stderr, flush=True)
    return description


def _provenance(settings: RunConfig, directory: RunDirectory, device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "status": "running",
        "error": None,
        "name": settings.name,
        "hash": directory.hash,
        "experiment": settings.experiment_name,
        "profile": settings.profile,
        "config": settings.values,
        "git": git_state(),
        "versions": package_versions(),
        "hardware": hardware(gpu, torch.get_num_threads()),
        "device": str(device),
        "started": now(),
    }


def _out_of_memory(error: Exception, settings: RunConfig, device: torch.device) -> TrainingError | None:
    """What to do about too little memory; None for another error. PyTorch has a type for it on CUDA alone."""
    if not _is_out_of_memory(error):
        return None
    size = settings.trainer.batch_size
    cure = "try a smaller trainer.batch_size" if size else "try trainer.batch_size=100, which trains in mini-batches"
    return TrainingError(f"out of memory on {device} ({' '.join(str(error).split())[:200]}); {cure}")


def _is_out_of_memory(error: BaseException) -> bool:
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))
