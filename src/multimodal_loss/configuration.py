"""Hydra's config: composing it, its typed form, and the identity of a run.

A run is identified by the hash of what decides its numbers, and of nothing else (`run_hash`):

    dataset        the node that is built, and the `version` of its class; a path below data_dir counts from there on,
                   and cache_dir does not count
    backbone, fusion, fusion_input, optimizer, scheduler, trainer, tuning; of files backbone.pretrained their names
    replicates     seed and fold of each, so that folds=auto and the same folds written out are one run
    profile

Values count as they are written, lists in their order: 1 and 1.0, or seeds=[0,1] and [1,0], are two runs.
Nulls do not count: an option added later whose default is null leaves earlier runs where they are.
"""

import copy
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multimodal_loss.errors import UserError
from multimodal_loss.options import (
    Count,
    Natural,
    NotNegative,
    Positive,
    Text,
    at_most,
    check_options,
    check_values,
    file_name,
    nearest,
)

CONFIG_DIR = Path(__file__).resolve().parent / "conf"  # in a checkout a link to the conf/ at its top
BUILT = ("dataset", "backbone", "fusion", "optimizer", "scheduler")
TUNABLE = BUILT[1:]
# Written out they are what Hydra takes them for anyway, but it refuses them on the command line.
DEFAULT_CHOICES = ("experiment=null", "method=null")
CANNOT_READ = "bad config"
NO_NAME = "Config group override must be"  # begins what Hydra says of scheduler=null

Node = dict[str, Any]
FusionInput = Literal["probabilities", "logits"]
Monitor = Literal["validation_loss", "validation_NLL", "validation_ACC", "validation_FM"]


class Planned(NamedTuple):
    """A replicate before anything is loaded or drawn; `replicate_id` names it in every file: its seed, or its fold."""

    replicate_id: int
    seed: int
    fold: int | None


class PlannedRun(NamedTuple):
    """A run as its config alone determines it; `<name>-<hash>` is its folder, `replicates` are its replicate ids."""

    name: str
    hash: str
    replicates: tuple[int, ...]
    facts: Node


@dataclass(frozen=True)
class TrainerConfig:
    """conf/trainer/: how long, in which batches, and what is monitored. The files say what each value does."""

    batch_size: Count | None
    max_epochs: Count
    min_delta: NotNegative
    patience: Count
    monitor: Monitor | None = None
    keep: Monitor | None = None
    path: Literal["auto", "ordinary"] = "auto"
    clip_norm: Positive | None = None
    drop_last: bool | None = None
    accumulate: Count = 1
    amp: bool = False
    compile: bool = False
    eval_batch_size: Count = 500

    def __post_init__(self) -> None:
        if self.keep is not None and self.monitor is None:
            raise UserError(f"trainer.keep={self.keep}: set trainer.monitor too, which says when to stop")

    @property
    def is_plain(self) -> bool:
        """Full batches in full precision, updated by the gradient as it is: what the collapsed path does."""
        plain = (self.batch_size, self.clip_norm, self.accumulate, self.amp, self.compile)
        return self.path == "auto" and plain == (None, None, 1, False, False)


@dataclass(frozen=True)
class TuningConfig:
    """conf/tuning/: what is tried for every replicate, on which part of its training samples."""

    inner_folds: Annotated[int, at_most(1000, 2)]
    grid: Mapping[str, Any]
    own: Mapping[str, Any]  # of the method or the backbone; a key that is in `grid` too takes its place
    max_epochs: Count | None = None

    def __post_init__(self) -> None:
        for key, values in self.axes.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"tuning: {key}={values}: must be a list of the values to try")

    @property
    def axes(self) -> Node:
        return {**self.grid, **self.own}

    def __str__(self) -> str:
        tried = ", ".join(f"{key} of {values}" for key, values in self.axes.items())
        return (
            f"tuning tries {tried} (tuning=none takes what the config says)" if tried else "tuning: a temperature alone"
        )

    def points(self) -> list[Node]:
        """Every combination of values by their keys, such as `optimizer.lr`."""
        return [dict(zip(self.axes, point, strict=True)) for point in itertools.product(*self.axes.values())]


@dataclass(frozen=True)
class TrackerConfig:
    """conf/tracker/: who else is told of a run."""

    name: Literal["none", "wandb"]
    mode: Literal["offline", "online"] = "offline"
    project: Text | None = None
    entity: Text | None = None
    dir: Text | None = None
    tags: Sequence[Text] = ()


@dataclass(frozen=True)
class RunConfig:
    """The resolved config of a run, its values checked as far as the config alone allows.

    `dataset`, `backbone`, `fusion`, `optimizer` and `scheduler` are nodes to instantiate; `facts` is what is said
    about them. `values` is all of it as plain containers, as it is stored with the run.
    """

    values: Node
    name: Annotated[str, file_name(200)]
    dataset: Node
    backbone: Node
    fusion: Node
    fusion_input: FusionInput
    optimizer: Node
    scheduler: Node | None
    trainer: TrainerConfig
    tuning: TuningConfig | None
    seeds: tuple[Natural, ...]
    folds: Literal["auto"] | tuple[Natural, ...] | None
    profile: Literal["full", "quick"]
    facts: Node
    device: Text
    threads: Annotated[int, at_most(1024, 1)] | None
    workers: Annotated[int, at_most(1024)]
    output_dir: Text
    data_dir: Text
    checkpoint_seconds: NotNegative
    store_training_outputs: bool
    progress: bool
    experiment_name: str | None
    tracker: Node

    @classmethod
    def parse(cls, config: DictConfig | Node) -> "RunConfig":
        """From what Hydra composed, or from `values` as they are stored with a run.

        Raises UserError for a value that is missing or of the wrong kind, and for an option that nothing has.
        """
        values = config if isinstance(config, dict) else resolved(config)
        _require("", {"values": values, **values}, cls)
        values = _with_plain_paths(values)
        check_values(values)
        for group in BUILT:
            if values[group] is not None:
                check_options(f"{group}.", values[group], _built_by(group, values[group]))
        for group, kind in (("trainer", TrainerConfig), ("tracker", TrackerConfig), ("tuning", TuningConfig)):
            if group != "tuning" or values[group] is not None:
                check_options(f"{group}.", values[group], kind)
                _require(f"{group}.", values[group], kind)
        folds = values["folds"]
        given = {
            **values,
            "trainer": TrainerConfig(**values["trainer"]),
            "tuning": None if values["tuning"] is None else TuningConfig(**values["tuning"]),
            "seeds": _several(values["seeds"]),
            "folds": folds if folds in (None, "auto") else _several(folds),
        }
        check_options("", given, cls)
        for key in ("seeds", "folds"):
            if isinstance(given[key], tuple) and len(set(given[key])) != max(len(given[key]), 1):
                raise UserError(f"{key}={list(given[key])}: give at least one, each once")
        run = cls(values, **given)
        if run.tuning and run.scheduler and str(run.scheduler["_target_"]).endswith("ReduceLROnPlateau"):
            raise UserError(
                "scheduler=plateau and tuning: what is trained after the trials, on all training samples, has no "
                "validation part to watch; take another scheduler= or tuning=none"
            )
        for point in run.tuning.points() if run.tuning else []:
            run.with_values(point)  # says what cannot be tried
        return run

    def with_values(self, values: Node) -> "RunConfig":
        """The same with other values in what is built, by keys such as `optimizer.lr`. UserError: nothing has such an
        option, or it takes no such value.
        """
        nodes = {group: copy.deepcopy(getattr(self, group)) for group in TUNABLE}
        for key, value in values.items():
            group, _, option = key.partition(".")
            if nodes.get(group) is None or not option:
                raise UserError(f"tuning: {key} is no option of the {' or '.join(TUNABLE)} that this run has")
            nodes[group][option] = value
        for group, node in nodes.items():
            if node is not None:
                check_options(f"{group}.", node, _built_by(group, node))
        return replace(self, **nodes)

    def plan(self, num_folds: int | None) -> tuple[Planned, ...]:
        """A replicate a seed where the dataset has one split (`num_folds` None), else one a fold, with the first seed.

        A backbone that is `deterministic` has one replicate where there is one split. UserError for other folds than
        the dataset has.
        """
        seeds, folds = self.seeds, self.folds
        if folds is None or (folds == "auto" and num_folds is None):
            if getattr(_built_by("backbone", self.backbone), "deterministic", False):
                seeds = seeds[:1]
            return tuple(Planned(seed, seed, None) for seed in seeds)
        if num_folds is None:
            raise UserError(f"folds={list(folds)}: this dataset has one fixed split; leave folds null, choose seeds")
        chosen = tuple(range(num_folds)) if isinstance(folds, str) else folds
        if max(chosen) >= num_folds:
            raise UserError(f"folds={list(chosen)}: this dataset has folds 0 to {num_folds - 1}")
        return tuple(Planned(fold, seeds[0], fold) for fold in chosen)


def data_version(config: RunConfig) -> int:
    """That of the dataset's class: bumped when the same files and options would give other numbers."""
    return int(getattr(_built_by("dataset", config.dataset), "version", 0))


def run_hash(config: RunConfig, plan: Sequence[Planned]) -> str:
    """Ten hexadecimal digits of what decides the run's numbers; the module's description lists it."""
    dataset = {key: value for key, value in config.dataset.items() if key != "cache_dir"}
    if isinstance(dataset.get("path"), str):
        dataset["path"] = dataset["path"].removeprefix(f"{config.data_dir}/")
    backbone = dict(config.backbone)
    if "pretrained" in backbone:
        backbone["pretrained"] = _file_names(backbone["pretrained"])
    content = {
        "dataset": dataset,
        "data_version": data_version(config),
        "backbone": backbone,
        "fusion": config.fusion,
        "fusion_input": config.fusion_input,
        "optimizer": config.optimizer,
        "scheduler": config.scheduler,
        "trainer": config.values["trainer"],
        "tuning": config.values["tuning"],
        "replicates": [(planned.seed, planned.fold) for planned in plan],
        "profile": config.profile,
    }
    return hashlib.sha256(json.dumps(_without_nulls(content), sort_keys=True).encode()).hexdigest()[:10]


def planned_run(overrides: Sequence[str]) -> PlannedRun:
    """The run that `train` would do for these overrides, without looking at the data.

    Where a dataset's folds depend on its files, they are taken to be as many as facts.dataset.num_folds says. Each
    combination of group choices is composed once and plain keys are set on a copy: a report names a hundred runs.
    """
    parsed = OverridesParser.create().parse_overrides([o for o in overrides if o not in DEFAULT_CHOICES])
    chosen = [o for o in parsed if _is_group(str(o.key_or_group))]
    plain = [o for o in parsed if o not in chosen]
    if any(o.is_add() or o.is_delete() or o.is_sweep_override() for o in parsed):
        config = compose_config(overrides)
    else:
        config = _compose(tuple(str(o.input_line) for o in chosen)).copy()
        for override in plain:
            OmegaConf.update(config, override.key_or_group, override.value())
    run = RunConfig.parse(config)
    plan = run.plan(run.facts["dataset"].get("num_folds"))
    return PlannedRun(run.name, run_hash(run, plan), tuple(p.replicate_id for p in plan), run.facts)


def of_replicate(node: Any, position: int) -> Any:
    """The node with every {per_fold: [...]} in it replaced by the entry of one replicate.

    Raises UserError where a list is too short.
    """
    if isinstance(node, Mapping):
        if set(node) != {"per_fold"}:
            return {key: of_replicate(value, position) for key, value in node.items()}
        listed = node["per_fold"]
        if not isinstance(listed, list) or position >= len(listed):
            raise UserError(f"per_fold={listed}: has no entry for fold {position}; give a list with one for each fold")
        return listed[position]
    return node


def fusion_of(method: str) -> str:
    """The file of conf/fusion/ that a method chooses."""
    defaults = OmegaConf.select(OmegaConf.load(CONFIG_DIR / "method" / f"{method}.yaml"), "defaults")
    (fusion,) = [entry["override /fusion"] for entry in defaults if "override /fusion" in entry]
    return str(fusion)


@cache
def method_facts(name: str) -> Node:
    """Name, title and colour of a method, as conf/method/ and its fusion's file say; titles may hold interpolations."""
    files = {"facts.fusion": f"fusion/{fusion_of(name)}.yaml", "facts.method": f"method/{name}.yaml"}
    nodes = [OmegaConf.select(OmegaConf.load(CONFIG_DIR / file), key) or {} for key, file in files.items()]
    facts = OmegaConf.to_container(OmegaConf.merge(*nodes), resolve=False)
    assert isinstance(facts, dict)
    return {str(key): value for key, value in facts.items()}


# --- composing


@cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `train` would see for these overrides. Raises UserError for one it does not know."""
    try:
        return _compose(tuple(o for o in overrides if o not in DEFAULT_CHOICES))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except ValueError as error:
        if NO_NAME not in str(error):
            raise
        raise UserError(explain(error)) from error


def first_job(overrides: Sequence[str]) -> list[str]:
    """The same overrides with the first value of each sweep over listed values (`optimizer.lr=1e-3,5e-3`): what a
    command that trains nothing, and so sweeps nothing, takes of those that are meant for training.

    Raises UserError for one that cannot be parsed.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(explain(error)) from error
    return [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}"
        if isinstance(one.value(), ChoiceSweep)
        else str(one.input_line)
        for one in parsed
    ]


def resolved(config: DictConfig) -> Node:
    """Plain containers with every interpolation resolved."""
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        if "'facts.dataset.modalities" in text:  # what method=unimodal_1 and the like take a name from
            text = (
                "this dataset is not known to have such a modality; give its name with a method of one modality: "
                "dataset.modalities=<name> method=unimodal (or logistic)"
            )
            raise UserError(text) from error
        raise UserError(f"{CANNOT_READ}: {text} ({getattr(error, 'full_key', None)})") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def explain(error: BaseException) -> str:
    """What Hydra or OmegaConf complains of, on one line, with the nearest names that exist."""
    text = " ".join(str(error).split())
    if NO_NAME in text:
        return f"{CANNOT_READ}: null is no name of a file in conf/; take scheduler=constant, tracker=none, tuning=none"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            group, _, name = str(cause.missing_cfg_file).rpartition("/")
            if group.startswith("hydra/") and not cause.options:
                return f"{group}={name}: its plugin is not installed; pip install 'multimodal-loss[{name}]'"
            return f"{group}={name}: no such {group}{nearest(name, cause.options or [])}; valid: " + ", ".join(
                sorted(cause.options or [])
            )
        key = getattr(cause, "full_key", None)
        if isinstance(cause, OmegaConfBaseException) and key:
            return f"{CANNOT_READ}: {text}{nearest(str(key), _known_keys())}"
        cause = cause.__cause__
    hint = "; a value with other signs than letters, digits and . / - wants quotes: 'key=\"value\"'"
    return f"{CANNOT_READ}: {text}{hint if isinstance(error, OverrideParseException) else ''}"


def _known_keys() -> list[str]:
    """Of every group's files: what a key may have been meant to be."""
    nodes = [OmegaConf.load(path) for path in sorted(CONFIG_DIR.glob("**/*.yaml"))]
    keys = {key for node in nodes for key in _flattened(OmegaConf.to_container(node, resolve=False))}
    return sorted(key for key in keys if not key.startswith("hydra"))


def _flattened(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _flattened(value, f"{prefix}{key}.")


def _is_group(key: str) -> bool:
    return (CONFIG_DIR / key).is_dir()


def _built_by(group: str, node: Node) -> Any:
    """The class, or function, that a node is built by."""
    try:
        return get_object(node["_target_"])
    except (KeyError, ImportError, ValueError, TypeError, AttributeError) as error:
        target = node.get("_target_") if isinstance(node, dict) else node
        raise UserError(f"{group}._target_={target}: there is no such class") from error


def _require(prefix: str, given: Node, kind: Any) -> None:
    """Raise UserError for a key without a default that was taken out, as ~key on the command line does."""
    absent = [field.name for field in fields(kind) if field.default is MISSING and field.name not in given]
    if absent:
        raise UserError(f"{prefix}{absent[0]}: every config has it; leave out ~{prefix}{absent[0]}")


def _with_plain_paths(values: Node) -> Node:
    """`my_study/`, as a shell completes it, is the folder `my_study`, and its runs are the same runs."""
    dataset = values["dataset"]
    if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
        dataset = {**dataset, "path": _plain(dataset["path"])}
    return {**values, "dataset": dataset, "data_dir": _plain(values["data_dir"])}


def _plain(path: Any) -> Any:
    return os.path.normpath(path) if isinstance(path, str) and path else path


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _file_names(node: Any) -> Any:
    """A path, or each of a mapping, without its folder."""
    if isinstance(node, dict):
        return {key: _file_names(value) for key, value in node.items()}
    return Path(node).name if isinstance(node, str) else node


def _without_nulls(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return node
