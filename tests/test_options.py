"""Every value of the config is checked, by one mechanism, before anything is loaded or trained."""

import copy
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from multimodal_loss.configuration import CONFIG_DIR, RunConfig, compose_config, resolved
from multimodal_loss.errors import UserError
from multimodal_loss.training.run import build, choose_device

# Together they hold every option of every file of these groups.
GROUPS = ("dataset", "backbone", "fusion", "optimizer", "scheduler", "trainer", "tracker")
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONFIG_DIR / group).glob("*.yaml"))]


@cache
def values_of(choice: str) -> dict[str, Any]:
    return resolved(compose_config([choice, *(["dataset.path=x"] if choice.startswith("dataset=tables") else [])]))


def complaint(choice: str, key: str, value: object) -> str:
    """What is said of the config with one value changed; empty where it is accepted."""
    values = copy.deepcopy(values_of(choice))
    *groups, name = key.split(".")
    node = values
    for group in groups:
        node = node[group]
    node[name] = value
    try:
        build(RunConfig.parse(values).dataset, "dataset")
    except UserError as error:
        return str(error)
    return ""


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def test_no_option_takes_a_value_of_another_kind() -> None:
    """Numbers: not NaN, infinity, more than 64 bits or text; true or false, text and lists: not something else."""
    asked = set()
    for choice in CHOICES:
        group = choice.partition("=")[0]
        for key, value in leaves(values_of(choice)[group], group):
            if key in asked or "._" in key or value is None:
                continue
            asked.add(key)
            bad = [[[[1]]], math.nan, -math.inf, 10**30, *(["maybe"] if isinstance(value, (bool, int, float)) else [])]
            for one in bad:
                said = complaint(choice, key, one)
                assert said.startswith(f"{key}=") and said.isprintable(), (key, one, said)
    assert len(asked) > 60


@pytest.mark.parametrize("key", ["facts.dataset.learning_rates", "tracker.name", "fusion.new", "trainer.new"])
@pytest.mark.parametrize("bad", [float("nan"), [float("-inf")], {"deep": [2**64]}, "bell\a", "\x1b[2J", "nul\0"])
def test_not_a_number_and_control_characters_are_refused_wherever_they_stand(key: str, bad: object) -> None:
    said = complaint("fusion=multimodal", key, bad)
    assert said.startswith(key) and said.isprintable()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"seeds": [2**64]}, "seeds=18446744073709551616: must be finite, and of 64 bits"),
        ({"seeds": []}, "seeds=[]: give at least one, each once"),
        ({"seeds": [0, 0]}, "seeds=[0, 0]: give at least one, each once"),
        ({"seeds": [True]}, "seeds=[true]: must be a list, each a whole number of at least 0"),
        ({"seeds": None}, "seeds=[null]: must be a list"),
        ({"folds": "all"}, 'folds=["all"]: must be one of auto or a list'),
        ({"threads": 10**6}, "threads=1000000: must be a whole number from 1 to 1024 or null"),
        ({"workers": -1}, "workers=-1: must be a whole number from 0 to 1024"),
        ({"device": ["cpu"]}, 'device=["cpu"]: must be text'),
        ({"device": None}, "device=null: must be text"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds=-1: must be a number of at least 0"),
        ({"progress": "maybe"}, "progress=maybe: must be true or false"),
        ({"store_training_outputs": "abc"}, "store_training_outputs=abc: must be true or false"),
        ({"profile": "foo"}, "profile=foo: must be one of full, quick"),
        ({"output_dir": ""}, "output_dir=: must be text that is not empty"),
        ({"output_dir": 5}, "to make it text, quote it: 'output_dir=\"5\"'"),
        ({"tracker.mode": "onlin"}, "tracker.mode=onlin: must be one of offline, online"),
        ({"tracker.tags": "x"}, "tracker.tags=x: must be a list, each text"),
        ({"tracker.tags": ["x", 3]}, 'tracker.tags=["x", 3]: must be a list, each text'),
        ({"tracker.project": 7}, "tracker.project=7: must be text"),
        ({"tracker.name": "wandbb"}, "tracker.name=wandbb: must be one of none, wandb"),
        ({"tracker.grup": "a"}, "tracker.grup: TrackerConfig has no such option"),
        ({"unknown": 1}, "unknown: RunConfig has no such option"),
        ({"trainer.batchsize": 1}, "trainer.batchsize: TrainerConfig has no such option (did you mean batch_size or"),
        ({"optimizer.momentun": 1}, "optimizer.momentun: Adam has no such option"),
        ({"optimizer.betas": [0.9]}, "optimizer.betas=[0.9]: must be a list of 2, each a number"),
        ({"optimizer._target_": "torch.optim.Adan"}, "optimizer._target_=torch.optim.Adan: there is no such class"),
        ({"dataset._target_": 3}, "dataset._target_=3: there is no such class"),
        ({"backbone": "mlp"}, "backbone._target_=mlp: there is no such class"),
        ({"backbone.hidden": 5}, "backbone.hidden=5: must be a list, each a whole number"),
        ({"backbone.hidden": "abc"}, "backbone.hidden=abc: must be a list"),
        ({"backbone.hidden": None}, "backbone.hidden=null: must be a list"),
        ({"backbone.hidden": [1.5]}, "backbone.hidden=[1.5]: must be a list"),
        ({"dataset.cache_dir": 3}, "dataset.cache_dir=3: must be text or null"),
        ({"dataset.sigmas": [1, float("nan")]}, "dataset.sigmas=nan: must be finite"),
        ({"dataset.modalities": ["m1", "m1"]}, "dataset.modalities=['m1', 'm1']: choose from m1, m2, m3, each once"),
        ({"optimizer.lr": {"per_fold": [1e-3, "abc"]}}, "optimizer.lr=abc: must be a number"),
    ],
)
def test_what_is_wrong_is_named(overrides: dict[str, object], message: str) -> None:
    ((key, value),) = overrides.items()
    assert message in complaint("fusion=multimodal", key, value)


@pytest.mark.parametrize(
    "bad", ["", "..", "../../up", "a/b", "/etc", ".hidden", "-rf", "x" * 300, "ü" * 101, "a\0b", None, 7, "a:b", "a\\b"]
)
@pytest.mark.parametrize(("choice", "key"), [("fusion=multimodal", "name"), ("dataset=tables", "dataset.label")])
def test_a_name_is_a_file_s_and_leads_nowhere_else(choice: str, key: str, bad: object) -> None:
    if (key, bad) != ("name", "ü" * 101):
        bad = bad * 2 if bad == "ü" * 101 else bad
        assert complaint(choice, key, bad).startswith(f"{key}=")


@pytest.mark.parametrize("good", ["study", "my study", "Müller 2024", "a.b_c-d", "ü" * 50])
def test_names_that_people_give(good: str) -> None:
    assert RunConfig.parse({**values_of("dataset=tables"), "name": good}).name == good


@pytest.mark.parametrize("bad", ["meta", "cpu:99", "gpu9", "", "cuda:99", "cpu:-1", "hpu", "xla:0"])
def test_a_device_that_nothing_can_be_trained_on(bad: str) -> None:
    with pytest.raises(UserError, match="cannot be used here"):
        choose_device(bad)


def test_devices() -> None:
    assert choose_device("cpu").type == choose_device("cpu:0").type == "cpu"


@pytest.mark.parametrize("value", [0, 4294967296])
def test_a_split_seed_is_one_that_scikit_learn_takes(value: int) -> None:
    said = complaint("dataset=tables", "dataset.split_seed", value)
    assert ("split_seed=4294967296: must be a whole number from 0 to 4294967295" in said) == (value > 0)
