"""What the tables read from conf/: the sweeps of experiments, and what methods and datasets are called.

Hydra is imported where it is needed, as that takes a while.
"""

from functools import cache
from typing import Any


def swept(name: str, key: str) -> list[str]:
    """The values of `key` in the sweep of conf/experiment/<name>.yaml, in its order."""
    return [value.strip() for value in str(experiment(name).hydra.sweeper.params[key]).split(",")]


def experiment(name: str) -> Any:
    """conf/experiment/<name>.yaml as it stands."""
    return _config("experiment", name)


def method_title(name: str, dataset: str = "", backbone: str = "") -> str:
    """What conf/method/<name>.yaml calls it, on the dataset and the backbone that its title may name."""
    from omegaconf import OmegaConf

    from multimodal_loss.configuration import method_facts

    groups = {"dataset": dataset, "backbone": backbone}
    facts = {group: _config(group, one).facts[group] for group, one in groups.items() if one}
    whole = OmegaConf.create({"facts": {**facts, "method": method_facts(name)}})
    return str(whole.facts.method.title)


def in_group(title: str) -> tuple[str, str]:
    """A title such as "Hard attention, the closest of all" as what is said and the heading that it stands under."""
    group, _, said = title.rpartition(", ")
    return said, group


def backbone_title(name: str) -> str:
    return str(_config("backbone", name).facts.backbone.title)


def dataset_title(name: str) -> str:
    return str(dataset_facts(name).get("title", name))


def dataset_facts(name: str) -> Any:
    """What conf/dataset/<name>.yaml says about it."""
    return _config("dataset", name).facts.dataset


@cache
def _config(group: str, name: str) -> Any:
    from omegaconf import OmegaConf

    from multimodal_loss.configuration import CONFIG_DIR

    return OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml")
