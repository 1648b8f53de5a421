"""Hydra's config: composing it, checking what a user typed, and the name and hash of a run."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multimodal_loss.errors import UserError

CONFIG_DIR = Path(__file__).resolve().parents[2] / "conf"
# Where things lie, what they run on, who watches and what they are called: none of it changes a number that a run
# reports.
NOT_HASHED = (
    "name",
    "dataset.run_name",
    "output_dir",
    "data_dir",
    "device",
    "threads",
    "tracker",
    "progress",
    "experiment_name",
    "checkpoint_seconds",
    "dataset.cache_dir",
    "dataset.default_data_seeds",
    "dataset.learning_rates",
    "dataset.modules",
    "dataset.logistic_C",
    "dataset.how_to_get",
    "store_training_outputs",
)


@cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `train` would see for these overrides. Raises UserError for one it does not know."""
    check_overrides(overrides)
    try:
        return _compose(tuple(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"bad config: {' '.join(str(error).split())}") from error


def resolved(config: DictConfig) -> dict[str, Any]:
    """Plain containers with every interpolation resolved."""
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"bad config: {str(error).splitlines()[0]} ({getattr(error, 'full_key', None)})") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def config_hash(config: dict[str, Any]) -> str:
    """Ten hexadecimal digits of the resolved config without NOT_HASHED.

    Nulls do not count either: an option added later whose default is null leaves the runs made before it where they
    are.
    """
    content = json.loads(json.dumps(config))
    dataset = content.get("dataset", {})
    if isinstance(dataset.get("path"), str):  # which folder it is below data_dir, wherever that lies
        dataset["path"] = dataset["path"].removeprefix(f"{content.get('data_dir')}/")
    for key in NOT_HASHED:
        *parents, last = key.split(".")
        node = content
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    content = _without_nulls(content)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def _without_nulls(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return node


def run_name_of(config: dict[str, Any]) -> str:
    """Name of the run's directory, `<name>-<hash>`."""
    return f"{config['name']}-{config_hash(config)}"


def run_name(overrides: Sequence[str]) -> str:
    """Name of the run's directory for these overrides.

    Composes each combination of group choices once and sets plain keys on a copy: a report names a hundred runs.
    """
    check_overrides(overrides)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if any(o.is_add() or o.is_delete() or o.is_sweep_override() for o in parsed):
        return run_name_of(resolved(compose_config(overrides)))
    config = _compose(tuple(o.input_line for o in parsed if o.input_line and _is_group(o.key_or_group))).copy()
    for override in parsed:
        if not _is_group(override.key_or_group):
            OmegaConf.update(config, override.key_or_group, override.value())
    return run_name_of(resolved(config))


# --- what a user typed
# -----------------------------------------------------------------------------------------------------------


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError, with the nearest valid names, for a group choice or key that does not exist."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read the override: {' '.join(str(error).split())}") from error
    choices = [override for override in parsed if _is_group(override.key_or_group)]
    for override in choices:
        _check_choice(override.key_or_group, _chosen(override))
    if any(o.is_sweep_override() for o in choices):
        return  # each job of the sweep is composed, and checked, on its own
    swept = [
        choice for choice in _swept_choices(choices) if choice.split("=")[0] not in {o.key_or_group for o in choices}
    ]
    keys = _known_keys((*(o.input_line for o in choices if o.input_line is not None), *swept))
    for override in parsed:
        key = override.key_or_group
        if not _is_group(key) and not override.is_add() and not key.startswith("hydra") and not _is_known(key, keys):
            raise UserError(f"unknown config key {key}{_nearest(key, keys)}")


def _swept_choices(choices: Sequence[Any]) -> list[str]:
    """The first choice of each group that a chosen experiment, or the one that it extends, sweeps."""
    names = [name for override in choices if override.key_or_group == "experiment" for name in _chosen(override)]
    swept: dict[str, str] = {}
    while names:
        config = OmegaConf.load(CONFIG_DIR / "experiment" / f"{names.pop()}.yaml")
        extended = OmegaConf.select(config, "defaults") or []
        names += [name for name in extended if isinstance(name, str) and name != "_self_"]
        for key, value in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items():
            if _is_group(key):
                swept.setdefault(key, str(value).split(",")[0])
    return [f"{key}={value}" for key, value in swept.items()]


def _is_group(key: str) -> bool:
    return (CONFIG_DIR / key).is_dir()


def _chosen(override: Any) -> list[str]:
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        return [str(name) for name in override.sweep_string_iterator()]
    if override.is_sweep_override():  # what a glob finds exists
        return []
    value = override.value()
    return [] if value is None else [str(value)]


def _check_choice(group: str, names: list[str]) -> None:
    valid = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    for name in names:
        if name not in valid:
            raise UserError(f"{group}={name}: no such {group}{_nearest(name, valid)}; valid: {', '.join(valid)}")


def _known_keys(choices: tuple[str, ...]) -> list[str]:
    try:
        return sorted(_flattened(OmegaConf.to_container(_compose(choices), resolve=False)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"bad config: {' '.join(str(error).split())}") from error


def _flattened(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _flattened(value, f"{prefix}{key}.")


def _is_known(key: str, keys: list[str]) -> bool:
    return key in keys


def _nearest(name: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    near += [v for v in valid if v.split(".")[-1] == name.split(".")[-1] and v not in near]
    return f" (did you mean {' or '.join(near[:3])}?)" if near else ""
