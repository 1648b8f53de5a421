"""Trackers: a real offline W&B run read back, and training that no tracker can change or stop. No network."""

import csv
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

from multimodal_loss import trackers
from multimodal_loss.configuration import RunConfig, compose_config
from multimodal_loss.errors import UserError
from multimodal_loss.reporting.formats.cells_csv import CSV_FIELDS
from multimodal_loss.results.run_directory import is_logged
from multimodal_loss.training import run as run_module

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    *("dataset.num_features=20", "dataset.num_informative=5", "dataset.train_size=60", "dataset.validation_size=20"),
    *("dataset.test_size=40", "backbone.hidden=[6,4]", "trainer.max_epochs=5", "seeds=[0,1]", "threads=1"),
    "trainer.monitor=validation_NLL",
]
EPOCHS = 5


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """W&B neither calls out nor reads or writes anything of the person who runs the tests."""
    home = tmp_path_factory.mktemp("home")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    folders = {f"WANDB_{name}_DIR": str(home / name) for name in ("CONFIG", "CACHE", "DATA")}
    return kept | folders | {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "OMP_NUM_THREADS": "1"}


def python(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def tracked(environment: dict[str, str], data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run with tracker=wandb."""
    folders = [f"output_dir={tmp_path_factory.mktemp('runs')}", f"data_dir={data_dir}"]
    options = ["tracker=wandb", "tracker.tags=[tiny]", "experiment_name=trial"]
    done = python(environment, "-m", "multimodal_loss.train", *TINY, *folders, *options)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return Path(done.stdout.splitlines()[-1])


class Stored:
    """A W&B run as `wandb leet inspect`, W&B's own reader, finds it in the run's folder."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        done = python(environment, "-m", "wandb", "leet", "inspect", "--json", str(folder))
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in done.stdout.splitlines()]
        [self.run] = [record["run"] for record in records if record["type"] == "run"]
        self.config = self.run["config"]["update"]
        self.history = [record["history"]["item"] for record in records if record["type"] == "history"]
        self.summary: dict[str, Any] = {}
        for record in records:
            self.summary |= record["summary"]["update"] if record["type"] == "summary" else {}
        [self.exit_code] = [record["exit"]["exit_code"] for record in records if record["type"] == "exit"]
        self.folder = folder


@pytest.fixture(scope="module")
def stored(tracked: Path, environment: dict[str, str]) -> dict[int, Stored]:
    """The W&B runs by replicate."""
    runs = [Stored(folder, environment) for folder in (tracked / "wandb").glob("offline-run-*")]
    return {run.config["replicate_id"]: run for run in runs}


def test_one_wandb_run_per_replicate(stored: dict[int, Stored], tracked: Path) -> None:
    assert sorted(stored) == [0, 1]
    for number, run in stored.items():
        assert run.run["display_name"] == f"{tracked.name} seed {number}"
        assert run.run["run_group"] == "trial/synthetic/multimodal"
        assert run.run["project"] == "multimodal-loss"
        assert run.run["tags"] == ["tiny"]
        assert run.run["job_type"] == "train"
        assert run.exit_code == 0


def test_config_is_the_resolved_one(stored: dict[int, Stored], tracked: Path) -> None:
    config = json.loads((tracked / "result.json").read_text())["config"]
    for run in stored.values():
        assert {key: run.config[key] for key in config} == config
        assert run.config["run"] == tracked.name
        assert run.config["resumed_from_epoch"] == 0


def test_history_is_the_training_loss(stored: dict[int, Stored], tracked: Path) -> None:
    with open(tracked / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, run in stored.items():
        expected = [(int(r["epoch"]), float(r["train_loss"])) for r in rows if int(r["replicate_id"]) == number]
        assert len(expected) == EPOCHS
        assert [(item["_step"], pytest.approx(item["train_loss"])) for item in run.history] == expected


def test_history_has_what_is_monitored_on_the_validation_part(stored: dict[int, Stored], tracked: Path) -> None:
    """The weights of the best epoch are kept: the least value is that of the result's metrics."""
    for replicate in json.loads((tracked / "result.json").read_text())["replicates"]:
        values = [item["validation_NLL"] for item in stored[replicate["replicate_id"]].history]
        assert len(values) == EPOCHS
        assert min(values) == pytest.approx(replicate["metrics"]["validation"]["fused"]["NLL"], rel=1e-5)


def test_the_final_table_holds_every_metric(stored: dict[int, Stored], tracked: Path) -> None:
    for replicate in json.loads((tracked / "result.json").read_text())["replicates"]:
        run = stored[replicate["replicate_id"]]
        table = json.loads((run.folder / "files" / run.summary["metrics.path"]).read_text())
        rows = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
        found = {(row.pop("split"), row.pop("source")): row for row in rows}
        assert {("test", "fused"), ("test", "m1"), ("test", "m3"), ("validation", "m2")} <= set(found)
        for split, metrics in replicate["metrics"].items():
            for source, values in {"fused": metrics["fused"], **metrics.get("modalities", {})}.items():
                assert {name: found[split, source][name] for name in values} == values


# What of a run's history is there only where trainer.monitor says so, and what a summary run logs.
ELSEWHERE = {"validation_loss", "validation_ACC", "cells"}


def test_the_dashboard_shows_what_the_tracker_logs(stored: dict[int, Stored], tmp_path: Path) -> None:
    """Every key of every panel, read off the JSON that would be sent, is a key of a run that was read back."""
    pytest.importorskip("wandb_workspaces")
    script = runpy.run_path(str(ROOT / "scripts" / "wandb_dashboard.py"))
    assert script["main"](["--json", str(tmp_path / "workspace.json")]) == 0
    text = (tmp_path / "workspace.json").read_text()
    sections = json.loads(text)["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"].split()[0] for section in sections if section["panels"]] == [
        *("Tables", "Training", "Calibration", "Sweeps"),
    ]
    run = stored[0]
    summary = {key.removesuffix(".path").removesuffix("._type") for key in run.summary}
    logged = summary | {key for item in run.history for key in item} | ELSEWHERE
    config = set(flat(run.config))
    shown = set(keys_of(sections))
    assert {"summary:test/fused/ACC", "summary:validation/fused/ACC", "config:optimizer.lr"} <= shown
    assert {"summary:train_loss", "summary:figure_4", "summary:metrics", "config:facts.method.title"} <= shown
    for kind, _, key in (one.partition(":") for one in shown):
        assert key in (config if kind == "config" else logged), f"{kind}:{key}"


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")


def keys_of(node: Any, inside: str = "") -> Iterator[str]:
    """Each as `config:<key>` or `summary:<key>`. W&B writes `.value` behind the first part of a config's key."""
    if isinstance(node, list):
        for one in node:
            yield from keys_of(one, inside)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from keys_of(value, f"{inside}/{key}")
    elif isinstance(node, str):
        _, _, last = inside.rpartition("/")
        if last == "groupBy" or node.startswith("config:"):
            yield f"config:{node.removeprefix('config:').replace('.value', '', 1)}"
        elif last in ("metrics", "mediaKeys") or inside.endswith("/key/val") or node.startswith("summary:"):
            yield f"summary:{node.removeprefix('summary_metrics.').removeprefix('summary:')}"


def test_the_sweep_asks_for_options_and_for_a_metric_that_there_are(stored: dict[int, Stored]) -> None:
    sweep = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    assert sweep["metric"]["name"] in stored[0].summary and sweep["metric"]["name"].startswith("validation/")
    given = [part for part in sweep["command"] if "=" in part]
    trial = [f"{key}={bounds['min']}" for key, bounds in sweep["parameters"].items()]
    RunConfig.parse(compose_config([*given, *trial]))
    assert importlib.util.find_spec(sweep["program"]) is not None


def test_summary_is_the_result(stored: dict[int, Stored], tracked: Path) -> None:
    result = json.loads((tracked / "result.json").read_text())
    for replicate in result["replicates"]:
        summary = stored[replicate["replicate_id"]].summary
        assert summary["status"] == "done"
        assert summary["epochs"] == replicate["epochs"] == EPOCHS
        assert summary["stopped"] == replicate["stopped"] == "max_epochs"
        for split in ("test", "validation"):
            metrics = replicate["metrics"][split]
            sources = {"fused": metrics["fused"], **metrics["modalities"]}
            assert set(sources) == {"fused", "m1", "m2", "m3"}
            for source, values in sources.items():
                found = {metric: summary.get(f"{split}/{source}/{metric}") for metric in values}
                assert found == values


def test_figure_4_is_logged(stored: dict[int, Stored]) -> None:
    for run in stored.values():
        assert run.summary["figure_4._type"] == "image-file"
        with PIL.Image.open(run.folder / "files" / run.summary["figure_4.path"]) as image:
            assert image.width > 200
            assert len(image.convert("RGB").getcolors(maxcolors=2**24) or ()) > 3  # not an empty page


def test_no_tracker_imports_nothing_of_it_and_gives_the_same_numbers(
    tracked: Path, environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from multimodal_loss import train\n"
        "code = train.main()\n"
        "unwanted = {'wandb', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {unwanted}' if unwanted else 0))"
    )
    done = python(environment, "-c", program, *TINY, f"output_dir={tmp_path}", f"data_dir={data_dir}")
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / tracked.name) == metrics_of(tracked)


def metrics_of(run: Path) -> list[Any]:
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done"
    return [replicate["metrics"] for replicate in result["replicates"]]


class Broken:
    """A tracker that fails whenever it is told of something."""

    def epoch(self, *_: Any) -> None:
        raise OSError("no network")

    def finish(self, *_: Any) -> None:
        raise ValueError("no figure")

    def fail(self, *_: Any) -> None:
        raise ValueError("nor a failure")

    def close(self) -> None:
        raise TimeoutError("cannot even close")


def not_starting() -> trackers.Tracker:
    raise PermissionError("two\nlines")


@pytest.mark.parametrize(("start", "reason"), [(Broken, "OSError: no network"), (not_starting, "two lines")])
def test_broken_tracker_costs_one_line_and_changes_nothing(
    start: Any,
    reason: str,
    tracked: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_module, "make_tracker", lambda *_: trackers.Guarded("broken", start))
    run = run_module.run(compose_config([*TINY, f"output_dir={tmp_path}", f"data_dir={data_dir}", "progress=false"]))
    assert metrics_of(run.path) == metrics_of(tracked)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tracker=broken failed, the run goes on without it (")
    assert reason in line


# --- what WandbTracker tells W&B, with stand-ins for the W&B runs ---


class FakeRun:
    """Records what wandb.Run would be told."""

    offline = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.config: Any = SimpleNamespace(update=self._update_config)
        self.resumed_from = options["config"]["resumed_from_epoch"]
        self.summary: dict[str, Any] = {}
        self.logged: dict[int, dict[str, Any]] = {}
        self.exit_code: int | None = None
        self.fails_to_finish = False

    def _update_config(self, values: Mapping[str, Any], allow_val_change: bool) -> None:
        self.resumed_from = values["resumed_from_epoch"]

    def log(self, values: Mapping[str, Any], step: int) -> None:
        assert step >= max(self.logged, default=0)  # W&B drops a step that goes back
        self.logged.setdefault(step, {}).update(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code
        if self.fails_to_finish:
            raise TimeoutError("upload")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    from multimodal_loss.trackers import wandb_tracker

    runs: list[FakeRun] = []

    def start(mode: str, folder: Path, project: str | None, entity: str | None, **options: Any) -> FakeRun:
        if options["name"].endswith("seed 13"):
            raise ConnectionError("W&B is down")
        runs.append(FakeRun(options))
        return runs[-1]

    monkeypatch.setattr(wandb_tracker, "start_run", start)
    return runs


def make(run_path: Path, numbers: Sequence[int] = (0, 1), folds: str | None = None) -> trackers.Tracker:
    values: dict[str, Any] = {
        "tracker": {"name": "wandb", "mode": "offline", "project": "p", "entity": None, "dir": None, "tags": []},
        "experiment_name": None,
        "trainer": {"monitor": "validation_loss"},
        "facts": {"dataset": {"name": "synthetic"}, "method": {"name": "sum_ce"}},
        "folds": folds,
    }
    return trackers.make_tracker(values, numbers, run_path)


METRICS: dict[str, Any] = {"test": {"fused": {"AUC": None}, "modalities": {}}}


def finish(tracker: trackers.Tracker, epochs: Mapping[int, int], metrics: Mapping[str, Any] = METRICS) -> None:
    rng = np.random.default_rng(0)
    fused = rng.dirichlet([1, 1], size=20)
    prediction = {"target": rng.integers(2, size=20), "fused": fused, "modalities": fused[:, None]}
    common = {"stopped": "no_progress", "metrics": metrics}
    replicates = [{**common, "replicate_id": number, "epochs": count} for number, count in epochs.items()]
    tracker.finish({"replicates": replicates, "dataset": {"modalities": ["m1"]}}, dict.fromkeys(epochs, prediction))


def test_history_is_thinned_and_keeps_the_last_epoch(started: list[FakeRun], tmp_path: Path) -> None:
    tracker = make(tmp_path)
    for epoch in range(1, 224):
        tracker.epoch(epoch, {0: 1 / epoch, 1: 2 / epoch} if epoch <= 117 else {0: 1 / epoch}, epoch / 10)
    finish(tracker, {0: 223, 1: 117})
    tracker.close()
    first, second = started
    assert list(first.logged) == [e for e in range(1, 224) if is_logged(e) or e == 223]
    assert list(second.logged) == [e for e in range(1, 118) if is_logged(e) or e == 117]
    assert second.logged[117]["train_loss"] == 2 / 117
    assert "figure_4" in first.logged[223] and "figure_4" in second.logged[117]
    assert first.summary == {
        "epochs": 223,
        "stopped": "no_progress",
        "status": "done",
    }  # an undefined metric is left out
    assert [run.exit_code for run in started] == [0, 0]
    assert started[0].options["group"] == "adhoc/synthetic/sum_ce"


def test_a_split_may_have_metrics_of_the_fused_prediction_alone(
    started: list[FakeRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = make(tmp_path, [0])
    test = {"fused": {"ACC": 0.75, "AUC": None}, "modalities": {"m1": {"NLL": 0.5}}}
    finish(tracker, {0: 7}, {"test": test, "test_samples": {"fused": {"ACC": 0.5}}})
    tracker.close()
    assert "warning" not in capsys.readouterr().err
    metrics = {"test/fused/ACC": 0.75, "test/m1/NLL": 0.5, "test_samples/fused/ACC": 0.5}
    assert started[0].summary == {"epochs": 7, "stopped": "no_progress", "status": "done", **metrics}


def test_resumed_run_begins_with_the_history_before_the_kill(started: list[FakeRun], tmp_path: Path) -> None:
    rows = [f"{number},{epoch},{number + epoch / 10},0.5" for epoch in (1, 2, 3, 4) for number in (0, 1)]
    del rows[-1]  # replicate 1 had stopped at the checkpoint, which held epoch 3
    (tmp_path / "history.csv").write_text("\n".join(["replicate_id,epoch,train_loss,seconds", *rows, ""]))
    tracker = make(tmp_path)
    tracker.epoch(4, {0: 0.25}, 0.7)
    tracker.close()
    assert [run.resumed_from for run in started] == [3, 3]
    assert [row["train_loss"] for row in started[0].logged.values()] == [0.1, 0.2, 0.3, 0.25]
    assert [row["train_loss"] for row in started[1].logged.values()] == [1.1, 1.2, 1.3]

    killed_after_training = make(tmp_path)
    finish(killed_after_training, {0: 4, 1: 3})
    killed_after_training.close()
    assert [list(run.logged) for run in started[2:]] == [[1, 2, 3, 4], [1, 2, 3]]


def test_folds_are_the_replicates_where_there_are_folds(started: list[FakeRun], tmp_path: Path) -> None:
    make(tmp_path, [0, 4], folds="auto").close()
    assert [run.options["name"] for run in started] == [f"{tmp_path.name} fold 0", f"{tmp_path.name} fold 4"]
    assert [run.options["config"]["replicate_id"] for run in started] == [0, 4]


def test_failed_and_interrupted_runs_say_so(started: list[FakeRun], tmp_path: Path) -> None:
    failed = make(tmp_path)
    failed.epoch(1, {0: 0.5, 1: 0.5}, 0.1)
    failed.fail("the loss became nan")
    failed.close()
    interrupted = make(tmp_path)
    interrupted.epoch(1, {0: 0.5, 1: 0.5}, 0.1)
    interrupted.close()
    assert [run.exit_code for run in started] == [1] * 4
    assert [run.summary["status"] for run in started] == ["failed"] * 2 + ["interrupted"] * 2
    assert started[0].summary["error"] == "the loss became nan"


def test_every_wandb_run_is_finished_whatever_fails(
    started: list[FakeRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, [1, 13]).close()  # the second does not start
    assert [run.exit_code for run in started] == [1]
    assert capsys.readouterr().err.count("warning: ") == 1

    tracker = make(tmp_path)
    started[-1].fails_to_finish = True
    tracker.close()
    assert all(run.exit_code == 1 for run in started)
    assert "TimeoutError: upload" in capsys.readouterr().err


# --- what a user can mend ---


@pytest.mark.parametrize("found", [None, SimpleNamespace(origin=None)], ids=["nothing", "a folder named wandb"])
def test_missing_package_names_the_extra(found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(UserError, match=r"multimodal-loss\[experiments\]"):
        make(tmp_path)


# --- scripts/wandb_summary.py ---


def test_summary_script_logs_the_cells(environment: dict[str, str], tmp_path: Path) -> None:
    cell = dict.fromkeys(CSV_FIELDS, "") | {"table": "table_1", "row": "0", "column": "sum_ce", "state": "complete"}
    folder = tmp_path / "results" / "table_1"
    folder.mkdir(parents=True)
    with open(folder / "cells.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, CSV_FIELDS)
        writer.writeheader()
        writer.writerow(cell | {"mean": "93.5", "n": "2", "values": "93;94"})
        writer.writerow(cell | {"row": "2", "n": "0", "state": "missing"})
    script = ["scripts/wandb_summary.py", "--results", str(tmp_path / "results"), "--dir", str(tmp_path)]
    done = python(environment, *script)
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "wandb").glob("offline-run-*/files/media/table/cells*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == list(CSV_FIELDS)
    first, second = (dict(zip(table["columns"], line, strict=True)) for line in table["data"])
    assert (first["row"], first["mean"], first["n"], first["values"]) == ("0", 93.5, 2, "93;94")
    assert (second["state"], second["mean"], second["n"]) == ("missing", None, 0)


def test_summary_script_complains_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "wandb_summary.py"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "cells.csv").write_text("table,row\nodd,1\n")
    complaints = {"table_9": "cells.csv", "odd": "lacks the columns", "--mode=onlin": "choose from", "--nothing": "--"}
    for argument, complaint in complaints.items():
        assert script["main"](["--results", str(tmp_path), argument]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and complaint in line
