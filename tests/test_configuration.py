"""The config: every file composes, what is unknown is named, and a run's hash holds what it should."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf.errors import ValidationError

from conftest import ROOT
from multimodal_loss import configuration
from multimodal_loss.configuration import CONFIG_DIR, RunConfig, compose_config, method_facts, planned_run, run_hash
from multimodal_loss.errors import UserError

GROUPS = sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name != "tuned")
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONFIG_DIR / group).glob("*.yaml"))]


def settings(*overrides: str) -> RunConfig:
    return RunConfig.parse(compose_config(overrides))


def hash_of(*overrides: str) -> str:
    return planned_run(overrides).hash


@pytest.mark.parametrize("choice", CHOICES)
def test_every_config_file_composes_and_opens_with_a_comment(choice: str) -> None:
    config = settings(choice, *(["dataset.path=x"] if choice.startswith("dataset=tables") else []))
    assert "facts" not in config.dataset and all(isinstance(v, str) for v in config.facts["method"].values())
    group, name = choice.split("=")
    lines = (CONFIG_DIR / group / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ") and (lines[0] == "# @package _global_") == (group != "tracker")


@pytest.mark.parametrize("name", [choice.partition("=")[2] for choice in CHOICES if choice.startswith("method=")])
def test_a_method_is_what_its_file_says_wherever_it_is_read(name: str) -> None:
    composed, read = settings(f"method={name}").facts["method"], method_facts(name)
    assert read["name"] == composed["name"] == name
    assert composed["colour"] == read["colour"] and ("${" in read["title"] or composed["title"] == read["title"])


@pytest.mark.parametrize(
    "override",
    [
        *("output_dir=x", "data_dir=x", "device=cpu", "threads=2", "workers=3", "tracker=wandb", "progress=false"),
        *("experiment_name=x", "name=x", "facts.dataset.title=x", "dataset.cache_dir=x", "method=multimodal"),
        *("store_training_outputs=true", "checkpoint_seconds=1", "experiment=null", "scheduler=constant"),
    ],
)
def test_paths_device_tracker_and_words_do_not_change_the_hash(override: str) -> None:
    assert hash_of(override) == hash_of()


@pytest.mark.parametrize(
    "trainer", ["full_batch", "mini_batch", "mini_batch_adam", "mini_batch_sgd", "tabular", "x_norm"]
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_an_optimizer_and_a_schedule_that_are_chosen_bring_their_own_values(trainer: str, optimizer: str) -> None:
    """And none of what the trainer would have with its own: a weight decay of 1 in Adam ends at chance."""
    schedule = {"adam": "constant", "adamw": "cosine", "rmsprop": "step", "sgd": "plateau"}[optimizer]
    plain, chosen = (
        RunConfig.parse(compose_config([f"trainer={name}", f"optimizer={optimizer}", f"scheduler={schedule}"]))
        for name in ("full_batch", trainer)
    )
    schedules = [
        {**(one.scheduler or {}), "T_max": None} for one in (chosen, plain)
    ]  # as many epochs as the trainer has
    assert chosen.optimizer == plain.optimizer and schedules[0] == schedules[1]


def test_the_features_of_table_4_train_as_table_4_does() -> None:
    frozen, whole = (RunConfig.parse(compose_config([f"experiment=table_4{part}"])) for part in ("_frozen", ""))
    assert frozen.tuning is whole.tuning is None
    assert (frozen.optimizer, frozen.scheduler) == (whole.optimizer, whole.scheduler)
    same = replace(whole.trainer, eval_batch_size=500)
    assert frozen.trainer == same and frozen.optimizer["lr"] == 1e-4


def test_a_plateau_needs_what_tuning_takes_away() -> None:
    tables = ["dataset=tables", "dataset.path=x", "scheduler=plateau"]
    with pytest.raises(UserError, match="scheduler=plateau and tuning: "):
        RunConfig.parse(compose_config(tables))
    assert RunConfig.parse(compose_config([*tables, "tuning=none"])).scheduler


@pytest.mark.parametrize(
    "override",
    [
        *("seeds=[0]", "optimizer.lr=1e-3", "optimizer=adamw", "scheduler=cosine", "trainer.max_epochs=7"),
        *("trainer.clip_norm=1", "trainer.amp=true", "fusion=sum_ce", "fusion.gamma=0.2", "fusion_input=logits"),
        *("dataset.data_seed=0", "dataset.noisy_modalities=0", "dataset.modalities=[m1]", "profile=quick"),
        *("backbone.activation=relu", "fusion.proxy_lr_multiplier=2"),
    ],
)
def test_what_changes_numbers_changes_the_hash(override: str) -> None:
    assert hash_of(override) != hash_of()


@pytest.mark.parametrize(
    "overrides",
    [
        ["fusion=nn_ce", "dataset.noisy_modalities=1"],
        ["experiment=quick", "method=unimodal_1", "optimizer.lr=5e-3"],
        ["dataset.sigmas=[0.1,1,2]", "seeds=[3]", "fusion.gamma=1.0"],
    ],
)
def test_the_quick_way_to_a_hash_is_the_composed_one(overrides: list[str]) -> None:
    config = settings(*overrides)
    plan = config.plan(None)
    planned = planned_run(overrides)
    assert (planned.hash, planned.name) == (run_hash(config, plan), config.name)
    assert planned.replicates == tuple(one.replicate_id for one in plan)


def test_a_method_with_its_overrides_written_out_is_the_same_run() -> None:
    written = ["backbone=deep_conv_lstm", "fusion=mulmix", "fusion.beta=0.5", "fusion_input=logits"]
    assert hash_of("experiment=table_3", "method=late_mulmix") == hash_of("experiment=table_3", *written)
    assert hash_of("experiment=table_6", "dataset=tcga_brca", "method=multimodal") == hash_of(
        "experiment=table_5", "dataset=tcga_brca", "method=multimodal"
    )


def test_a_slash_at_the_end_of_a_folder_is_no_other_folder() -> None:
    given = ("dataset=tables", "dataset.folds=3")
    plain = settings(*given, "dataset.path=my/study")
    for path in ("my/study/", "./my/study", "my//study"):
        assert hash_of(*given, f"dataset.path={path}") == run_hash(plain, plain.plan(3))
        assert settings(*given, f"dataset.path={path}").values["dataset"]["path"] == "my/study"
    assert settings(*given, "data_dir=data/", "dataset.path=data/x").data_dir == "data"


def test_a_method_of_one_modality_says_what_it_wants_of_other_data() -> None:
    with pytest.raises(UserError, match=r"dataset\.modalities=<name> method=unimodal") as caught:
        settings("dataset=tables", "dataset.path=x", "method=unimodal_1")
    assert "facts" not in str(caught.value)


def test_a_value_that_omegaconf_refuses_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ValidationError is a ValueError, too, and no other of these is hidden."""
    for error, told in ((ValidationError("bad value"), UserError), (ValueError("a bug"), ValueError)):

        def fail(_: object, error: ValueError = error) -> None:
            raise error

        monkeypatch.setattr(configuration, "_compose", fail)
        with pytest.raises(told, match=str(error)):
            compose_config()


@pytest.mark.parametrize("key", ["scheduler", "trainer", "seeds", "trainer.max_epochs", "tracker"])
def test_a_key_that_was_taken_out_is_one_line(key: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(key)}: every config has it"):
        settings(f"~{key}")


def test_zero_is_a_value() -> None:
    assert len({hash_of(f"dataset.data_seed={seed}") for seed in ("0", "1")} | {hash_of()}) == 3
    assert hash_of("optimizer.weight_decay=0") != hash_of()


def test_the_paper_s_learning_rate_is_taken_per_method_unless_given() -> None:
    assert settings("method=nn_ce").optimizer["lr"] == 5e-5
    assert settings("method=unimodal_1").optimizer["lr"] == 5e-3
    assert settings("method=nn_ce", "optimizer.lr=1e-3").optimizer["lr"] == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fusion=multimodel", "fusion=multimodel: no such fusion (did you mean multimodal"),
        ("fusion=zzz", "mulmix, multimodal"),
        ("experiment=table1", "did you mean table_1"),
        ("scheduler=null", "null is no name of a file in conf/"),
        ("trainer.learningrate=1", "Could not override 'trainer.learningrate'"),
        ("lr=1", "optimizer.lr"),
        ("fusion.proxies=3", "fusion.proxies_per_class"),
        ("optimizer.lr=[", "no viable alternative"),
        ("hydra/launcher=jobli", "did you mean joblib"),
        ("fusion=sum_ce,multimodal", "add --multirun"),
    ],
)
def test_hydra_s_own_words_on_one_line_with_the_nearest_names(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config([override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def pins(lines: list[str]) -> dict[str, str]:
    return dict(line.split("==") for line in lines if "==" in line)


LEFT_OUT = ("ray", "optuna")  # pyproject.toml says why


def test_environment_yml_and_pyproject_list_the_same_pins() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    every = [requirement for extra in extras.values() for requirement in extra]
    assert pins(pip) == pins([one for extra, listed in extras.items() if extra not in LEFT_OUT for one in listed])
    assert len(pins(every)) == len(every), "every extra is pinned exactly"


def test_the_lock_file_holds_the_pins_and_hashes_of_all_and_names_no_index() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "index" not in lock
    entries = [entry.split(" \\\n") for entry in re.split(r"\n(?=\S)", lock.strip()) if not entry.startswith("#")]
    for pin, *hashes in entries:
        assert re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; .+)?", pin), pin
        assert hashes and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", one) for one in hashes), pin
    locked = {pin.split(" ;")[0] for pin, *_ in entries}
    wanted = {one.lower() for extra, listed in extras.items() if extra not in LEFT_OUT for one in listed}
    assert wanted <= locked, "run make lock"


def test_the_top_level_is_as_designed() -> None:
    hidden = {".git", ".ci", ".github", ".gitignore", ".pre-commit-config.yaml", ".venv"}
    caches = {".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    folders = {"conf", "src", "scripts", "data", "outputs", "tests"}
    files = {
        "environment.yml",
        "requirements.lock",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "pyproject.toml",
        "LICENSE",
        "CITATION.cff",
    }
    found = {path.name for path in Path(ROOT).iterdir()} - hidden - caches
    assert found == folders | files
