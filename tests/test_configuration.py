"""The config: every file composes, what is unknown is named, and a run's hash holds what it should."""

import tomllib
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from multimodal_loss.configuration import CONFIG_DIR, check_overrides, compose_config, resolved, run_name, run_name_of
from multimodal_loss.errors import UserError

GROUPS = ("dataset", "backbone", "fusion", "trainer", "tracker", "experiment")
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONFIG_DIR / group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_config_file_composes_and_opens_with_a_comment(choice: str) -> None:
    needed = ["dataset.path=x"] if choice == "dataset=tables" else []
    resolved(compose_config([choice, *needed]))
    group, name = choice.split("=")
    assert (CONFIG_DIR / group / f"{name}.yaml").read_text().startswith("#")


@pytest.mark.parametrize(
    "override",
    ["output_dir=x", "data_dir=x", "device=cpu", "threads=2", "tracker=wandb", "progress=false", "experiment_name=x"],
)
def test_paths_device_and_tracker_do_not_change_the_name(override: str) -> None:
    assert run_name([override]) == run_name([])


@pytest.mark.parametrize(
    "override",
    [
        "seeds=[0]",
        "trainer.lr=1e-3",
        "trainer.max_epochs=7",
        "fusion=sum_ce",
        "fusion.gamma=0.2",
        "fusion.input=logits",
        "dataset.data_seed=0",
        "dataset.noisy_modalities=0",
        "dataset.modalities=[m1]",
        "backbone.activation=relu",
        "profile=quick",
    ],
)
def test_what_changes_numbers_changes_the_hash(override: str) -> None:
    assert run_name([override])[-10:] != run_name([])[-10:]


@pytest.mark.parametrize(
    "overrides",
    [
        ["fusion=nn_ce", "dataset.noisy_modalities=1"],
        ["experiment=quick", "fusion=unimodal", "dataset.modalities=[m1]", "trainer.lr=5e-3"],
        ["dataset.sigmas=[0.1,1,2]", "seeds=[3]", "fusion.gamma=0"],
    ],
)
def test_the_quick_way_to_a_name_is_the_composed_one(overrides: list[str]) -> None:
    assert run_name(overrides) == run_name_of(resolved(compose_config(overrides)))


def test_zero_is_a_value() -> None:
    names = [run_name([f"dataset.data_seed={s}"]) for s in ("0", "1", "null")]
    assert len(set(names)) == 3
    assert run_name(["trainer.weight_decay=0"]) != run_name([])


def test_the_paper_s_learning_rate_is_taken_per_method_unless_given() -> None:
    assert resolved(compose_config(["fusion=nn_ce"]))["trainer"]["lr"] == 5e-5
    assert resolved(compose_config(["fusion=unimodal", "dataset.modalities=[m1]"]))["trainer"]["lr"] == 5e-3
    assert resolved(compose_config(["fusion=nn_ce", "trainer.lr=1e-3"]))["trainer"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fusion=multimodel", "did you mean multimodal"),
        ("fusion=zzz", "valid: mulmix, multimodal"),
        ("fusion=sum_ce,multimodel", "fusion=multimodel"),
        ("experiment=table1", "did you mean table_1"),
        ("trainer.learningrate=1", "unknown config key trainer.learningrate"),
        ("lr=1", "did you mean trainer.lr"),
        ("fusion.proxies=3", "did you mean fusion.proxies_per_class"),
        ("trainer.lr=[", "cannot read the override"),
        ("fusion=null", "fusion=null: no such fusion"),
        ("experiment=null", "experiment=null: no such experiment"),
        ("fusion=glob(zz*)", "fusion=glob(zz*) finds none of mulmix, multimodal"),
    ],
)
def test_unknown_names_are_one_line_with_the_nearest_valid_ones(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config([override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def pins(lines: list[str]) -> dict[str, str]:
    return dict(line.split("==") for line in lines if "==" in line)


def test_environment_yml_and_pyproject_list_the_same_pins() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    every = [requirement for extra in extras.values() for requirement in extra]
    assert pins(pip) == pins(every)
    assert len(pins(every)) == len(every), "every extra is pinned exactly"


def test_the_top_level_is_as_designed() -> None:
    hidden = {".git", ".ci", ".gitignore", ".venv"}
    caches = {".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    folders = {"conf", "src", "scripts", "data", "outputs", "tests"}
    files = {"environment.yml", "Makefile", "README.md", "pyproject.toml", "LICENSE", "CITATION.cff"}
    found = {path.name for path in Path(ROOT).iterdir()} - hidden - caches
    assert found == folders | files


def test_keys_of_the_groups_that_an_experiment_sweeps_are_known() -> None:
    """backbone=moma comes with the experiment's sweep, table_6_axis extends table_6."""
    check_overrides(["experiment=table_6_axis", "dataset=tcga_brca", "backbone.modules=16"])
    with pytest.raises(UserError, match=r"backbone\.hidden"):
        check_overrides(["experiment=table_6_axis", "dataset=tcga_brca", "backbone.hidden=[3]"])
    check_overrides(["experiment=table_6_axis", "dataset=tcga_brca", "backbone=mlp", "backbone.hidden=[3]"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fusion=sum_ce,multimodal", "trainer.lerning=0.1"], r"unknown config key trainer\.lerning \(did you mean "),
        (["fusion=sum_ce,multimodal", "trainer.lernin_rate=1"], r"unknown config key trainer\.lernin_rate"),
        (["fusion=sum_ce,multimodal", "fusion.gama=0.1"], r"did you mean fusion\.gamma"),
        (["fusion=multimodal,sum_ce", "fusion.gamma=0.1"], r"unknown config key fusion\.gamma with fusion=sum_ce$"),
        (["fusion=glob(*)", "fusion.gamma=0.1"], r"unknown config key fusion\.gamma with fusion=mulmix$"),
        (["fusion=choice(sum_ce,multimodl)"], r"fusion=multimodl: no such fusion \(did you mean multimodal"),
        (["experiment=quick,table_11"], r"experiment=table_11: no such experiment \(did you mean table_1"),
        (["experiment=table_1,quick", "trainer.lerning=1,2"], r"unknown config key trainer\.lerning"),
        (["experiment=quick", "dataset=synthetic,tcga_brca", "trainer.lerning=1"], r"unknown config key trainer\.lern"),
    ],
)
def test_unknown_names_in_a_sweep_are_one_line_too(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_overrides(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["fusion=soft_triple,multimodal", "fusion.gamma=0.1,0.2", "trainer.lr=1e-3"],
        ["fusion=glob(*,exclude=unimodal)", "trainer.lr=5e-3,5e-4", "fusion.input=logits"],
        ["fusion=sum_ce,multimodal", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+extra=1"],
        ["experiment=table_1,quick", "seeds=[0]"],
        ["~experiment", "~fusion.gamma", "seeds=[0]"],
        ["experiment=quick", "fusion=sum_ce,multimodal", "dataset=synthetic,opportunity_like"],
    ],
)
def test_sweeps_of_known_names_pass(overrides: list[str]) -> None:
    check_overrides(overrides)
