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
from hydra.core.override_parser.types import Glob
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


def check_overrides(overrides: Sequence[str], multirun: bool = True) -> None:
    """Raise UserError, with the nearest valid names, for a group choice or key that does not exist, and for several
    values where `multirun` was not asked for.

    Where a sweep chooses several of a group (`fusion=sum_ce,multimodal`), a key must exist with each of them.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read the override: {' '.join(str(error).split())}") from error
    for override in parsed:
        if override.is_sweep_override() and not multirun:
            raise UserError(f"{override.input_line}: several values; add -m to train one run for each")
    choices = [override for override in parsed if _is_group(override.key_or_group)]
    for override in choices:
        if not override.is_delete():
            _check_choice(override)
    typed = [o.key_or_group for o in parsed if not _is_group(o.key_or_group) and not o.is_add()]
    typed = [key for key in typed if not key.startswith("hydra")]
    keys_with = {chosen: _known_keys(chosen) for chosen in _compositions(choices, typed)}
    somewhere = sorted({key for keys in keys_with.values() for key in keys})
    for key in typed:
        if key not in somewhere:
            raise UserError(f"unknown config key {key}{_nearest(key, somewhere)}")
        for chosen, keys in keys_with.items():
            if key not in keys:
                raise UserError(f"unknown config key {key} with {' '.join(chosen)}")


def _compositions(choices: Sequence[Any], typed: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What to compose so that every choice of a swept group occurs, beside the first ones of the other groups.

    A composition takes a tenth of a second: a group is swept only if a typed key lies in it, or if it may change keys
    of other groups.
    """
    lines = [_lines(override) for override in choices]
    first = tuple(of_group[0] for of_group in lines)
    groups = {override.key_or_group for override in choices}
    swept = tuple(line for line in _swept_choices(choices) if line.split("=")[0] not in groups)
    yield (*first, *swept)
    for i, (override, of_group) in enumerate(zip(choices, lines, strict=True)):
        group = override.key_or_group
        if group == "experiment" or any(key.startswith(f"{group}.") for key in typed):
            for line in of_group[1:]:
                yield (*first[:i], line, *first[i + 1 :], *swept)


def _lines(override: Any) -> list[str]:
    """What is typed for each single choice."""
    if override.is_sweep_override():
        return [f"{override.key_or_group}={name}" for name in _chosen(override)]
    return [str(override.input_line)]


def _swept_choices(choices: Sequence[Any]) -> list[str]:
    """The first choice of each group that the chosen experiment, or the one that it extends, sweeps.

    Where experiments are swept themselves, Hydra does not read what they sweep.
    """
    names = [
        name
        for override in choices
        if override.key_or_group == "experiment" and not (override.is_sweep_override() or override.is_delete())
        for name in _chosen(override)
    ]
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


def _files(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def _chosen(override: Any) -> list[str]:
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(_files(override.key_or_group))
    if override.is_choice_sweep():
        return [str(name) for name in override.sweep_string_iterator()]
    return ["null" if value is None else str(value)]


def _check_choice(override: Any) -> None:
    group, names = override.key_or_group, _chosen(override)
    valid = _files(group)
    if not names:
        raise UserError(f"{override.input_line} finds none of {', '.join(valid)}")
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


def _nearest(name: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    near += [v for v in valid if v.split(".")[-1] == name.split(".")[-1] and v not in near]
    return f" (did you mean {' or '.join(near[:3])}?)" if near else ""
