"""What was trained predicts: its own test rows bit for bit, other tables by their names; all else is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import ROOT, TINY
from multimodal_loss import load_run
from multimodal_loss.configuration import RunConfig, compose_config
from multimodal_loss.datasets.fitted_tables import FittedTables
from multimodal_loss.errors import UserError
from multimodal_loss.predict import main
from multimodal_loss.prediction import Predictions
from multimodal_loss.results.metrics import tempered
from multimodal_loss.training import run as run_module
from multimodal_loss.training.run import run
from test_hostile_runs import HOSTILE, changed, places

FAST = ("trainer.max_epochs=6", "threads=1", "device=cpu", "progress=false")
WIDTHS = {"genes": 6, "images": 4}
# Of two widths, which are chosen anew in each fold.
TUNED = ("tuning.grid={optimizer.lr: [3e-2]}", "tuning.own={backbone.hidden: [[], [5], [7]]}")
CLASSES = ("=cmd(),é", "a", "c")  # one has signs that CSV, spreadsheets and terminals treat in their own way


def tables() -> dict[str, pd.DataFrame]:
    """60 samples of three classes, some cells missing, one feature constant in all samples but those of fold 0."""
    rng, label = np.random.default_rng(0), np.arange(60) % 3
    ids = pd.Index([f"s{i}" for i in range(60)], name="id")
    made = {}
    for name, width in WIDTHS.items():
        values = 5 + rng.normal(size=(60, width)) + 2 * np.eye(3, width)[label]
        values[rng.random(values.shape) < 0.05] = np.nan
        made[name] = pd.DataFrame(values.astype(np.float32), ids, [f"{name}{j}" for j in range(width)])
    made["genes"]["genes1"] *= np.float32(0.01)
    made["genes"]["genes5"] = np.where(fold_of() == 0, rng.normal(size=60), 1.0).astype(np.float32)
    return made


def fold_of() -> np.ndarray:
    return np.arange(60) // 3 % 3


def write(folder: Path, made: Mapping[str, pd.DataFrame], labelled: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for position, (name, table) in enumerate(made.items()):
        if position:
            table.reset_index().to_parquet(folder / f"{name}.parquet")
        else:
            table.to_csv(folder / f"{name}.csv")
    if labelled:
        label = np.array(CLASSES, dtype=object)[np.arange(60) % 3]
        frame = pd.DataFrame({"id": [f"s{i}" for i in range(60)], "label": label, "fold": fold_of()})
        frame.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("own") / "study", tables())


def of_tables(study: Path, out: Path, *more: str) -> Path:
    given = ("dataset=tables", f"dataset.path={study}", "dataset.impute=mean", f"output_dir={out}", *FAST, *more)
    return run(compose_config(given)).path


@pytest.fixture(scope="module")
def trained(study: Path) -> Path:
    return of_tables(study, study.parent / "runs", "method=multimodal", *TUNED)


@pytest.fixture(scope="module")
def on_tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[torch.Tensor, ...]]:
    """A run of two seeds on generated data, and its test inputs."""
    folder = tmp_path_factory.mktemp("generated")
    config = compose_config([*TINY, "trainer.max_epochs=5", f"output_dir={folder}/runs", f"data_dir={folder}/data"])
    return run(config).path, run_module.make_dataset(RunConfig.parse(config)).load().test.inputs


def stored(path: Path, number: int) -> dict[str, Any]:
    arrays = np.load(path / "predictions.npz", allow_pickle=False)
    return {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"{number}/")}


def same(predictions: Predictions, kept: Mapping[str, Any]) -> bool:
    pairs = [(predictions.fused, kept["fused"]), (predictions.own, kept["read_out"])]
    pairs += [(predictions.shares, kept["weights"])] if "weights" in kept else []
    return all(a is not None and a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def rows(made: Mapping[str, pd.DataFrame], ids: Any) -> dict[str, pd.DataFrame]:
    return {name: table.loc[list(ids)] for name, table in made.items()}


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the round trip


def test_predictions_on_the_test_rows_of_each_fold_are_the_stored_ones(trained: Path) -> None:
    loaded = load_run(trained, device="cpu")
    chosen = [one["tuning"]["chosen"] for one in json.loads((trained / "result.json").read_text())["replicates"]]
    assert len({str(values) for values in chosen}) > 1  # folds have networks of their own
    for number in loaded.replicates:
        kept = stored(trained, number)
        assert kept["ids"].tolist() == [f"s{i}" for i in range(60) if fold_of()[i] == number]
        found = loaded.predict(rows(tables(), kept["ids"]), replicate=number)
        assert same(found, kept) and found.ids.tolist() == kept["ids"].tolist() and found.target is None


def test_a_new_process_predicts_the_same_from_files_with_columns_and_rows_in_another_order(
    trained: Path, tmp_path: Path
) -> None:
    kept = stored(trained, 1)
    made = rows(tables(), kept["ids"])
    made = {"genes": made["genes"].iloc[:, ::-1], "images": made["images"].iloc[::-1, [2, 0, 3, 1]]}
    folder = write(tmp_path / "new", made, labelled=False)
    words = [f"run={trained}", f"data={folder}", "replicate=1", "device=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "multimodal_loss.predict", *words, "output=out.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and done.stdout == "out.parquet\n", done.stderr
    assert main([*words, f"output={tmp_path / 'out.csv'}"]) == 0
    as_csv = pd.read_csv(tmp_path / "out.csv", dtype=dict.fromkeys(columns(), np.float32))
    for read in (pd.read_parquet(tmp_path / "out.parquet"), as_csv):
        assert list(read.columns) == ["id", "predicted", *columns()]
        assert read["id"].tolist() == kept["ids"].tolist()
        for position, label in enumerate(CLASSES):
            np.testing.assert_array_equal(read[f"fused/{label}"], kept["fused"][:, position])
            np.testing.assert_array_equal(read[f"own/images/{label}"], kept["read_out"][:, 1, position])
        np.testing.assert_array_equal(read["share/genes"], kept["weights"][:, 0])
        assert read["predicted"].tolist() == [CLASSES[c] for c in kept["fused"].argmax(1)]


def columns() -> list[str]:
    own = [f"own/{m}/{c}" for m in WIDTHS for c in CLASSES]
    return [*(f"fused/{c}" for c in CLASSES), *own, *(f"share/{m}" for m in WIDTHS)]


def test_folds_are_averaged_as_probabilities(trained: Path) -> None:
    loaded = load_run(trained, device="cpu")
    every = [loaded.predict(tables(), replicate=number) for number in loaded.replicates]
    together = loaded.predict(tables())
    for part in ("fused", "own", "shares"):
        mean = np.mean([np.float64(getattr(one, part)) for one in every], axis=0)
        np.testing.assert_allclose(getattr(together, part), mean, rtol=1e-6)
    assert not np.array_equal(together.fused, every[0].fused)


def test_labels_beside_the_tables_give_an_accuracy_and_ids_from_training_a_warning(
    trained: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = stored(trained, 2)
    right = 100 * (expected["fused"].argmax(1) == expected["target"]).mean()
    folder = write(tmp_path / "part", rows(tables(), expected["ids"]))
    labels = pd.read_csv(folder / "labels.csv")
    labels[labels["id"].isin(expected["ids"])].to_csv(folder / "labels.csv", index=False)
    assert main([f"run={trained}", f"data={folder}", "replicate=2"]) == 0
    said = capsys.readouterr()
    assert f"ACC {right:.1f} of 18 samples" in said.err and "warning: 18 of" not in said.err
    assert said.out.startswith("id,predicted,") and len(said.out.splitlines()) == 19
    assert main([f"run={trained}", f"data={folder}"]) == 0
    assert "warning: 18 of the ids are of samples that this was trained with" in capsys.readouterr().err


def test_of_a_run_of_one_fold_the_training_samples_are_known_too(study: Path, tmp_path: Path) -> None:
    path = of_tables(study, tmp_path / "runs", "method=logistic", "tuning=none", "folds=[2]")
    loaded, ids = load_run(path, device="cpu"), np.array([f"s{i}" for i in range(60)])
    assert loaded.seen(ids) == 42 and loaded.seen(ids[fold_of() == 2]) == 0 and loaded.seen(np.array(["new"])) == 0


def test_calibrated_probabilities_are_those_of_the_temperature_that_was_fitted(trained: Path) -> None:
    loaded, kept = load_run(trained, device="cpu"), stored(trained, 0)
    result = json.loads((trained / "result.json").read_text())
    temperature = result["replicates"][0]["temperature"]
    assert temperature not in (None, 1.0)
    found = loaded.predict(rows(tables(), kept["ids"]), replicate=0, calibrated=True)
    np.testing.assert_array_equal(found.fused, tempered(kept["fused"], temperature).astype(np.float32))


def test_one_modality_is_taken_from_its_file_alone(study: Path, tmp_path: Path) -> None:
    more = ("fusion=unimodal", "dataset.modalities=[genes]", *TUNED, "folds=[1]")
    path = of_tables(study, tmp_path / "runs", *more)
    kept = stored(path, 1)
    rows(tables(), kept["ids"])["genes"].to_csv(tmp_path / "other_name.csv")
    found = load_run(path, device="cpu").predict(tmp_path / "other_name.csv")
    assert np.array_equal(found.fused, kept["fused"]) and found.own is None and found.shares is None
    assert load_run(path).predict(study).ids.tolist() == [f"s{i}" for i in range(60)]  # the other file is not read


def test_a_baseline_that_is_fitted_predicts_and_trees_say_that_they_cannot(study: Path, tmp_path: Path) -> None:
    fitted = of_tables(study, tmp_path, "method=logistic", "folds=[2]")
    kept = stored(fitted, 2)
    found = load_run(fitted, device="cpu").predict(rows(tables(), kept["ids"]))
    assert np.array_equal(found.fused, kept["fused"])
    trees = of_tables(study, tmp_path, "method=concat_boosting", "backbone.iterations=2", "folds=[2]")
    assert "Boosting is no network: a run does not store what it fitted" in error_of(lambda: load_run(trees))


# --- tensors


def test_tensors_of_a_run_without_tables(on_tensors: tuple[Path, tuple[torch.Tensor, ...]], tmp_path: Path) -> None:
    path, inputs = on_tensors
    loaded = load_run(path, device="cpu")
    for number in (0, 1):
        kept = stored(path, number)
        assert kept["ids"].tolist() == list(range(60))
        assert same(loaded.predict(inputs, replicate=number), kept)
        assert same(
            loaded.predict(
                {name: x.numpy() for name, x in zip(["m1", "m2", "m3"], inputs, strict=True)}, replicate=number
            ),
            kept,
        )
    arrays = {f"m{m + 1}": x.numpy() for m, x in enumerate(inputs)}
    np.savez(tmp_path / "new.npz", ids=np.array([f"x{i}" for i in range(60)]), **arrays)
    found = loaded.predict(tmp_path / "new.npz", replicate=1)
    assert same(found, stored(path, 1)) and found.ids[3] == "x3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:2], "2 modalities are given, the run reads m1, m2, m3"),
        (lambda x: x[0], "give the samples by modality: m1, m2, m3"),
        (lambda x: dict(zip("abc", x, strict=True)), "the samples have ['a', 'b', 'c'], the run reads m1, m2, m3"),
        (lambda x: (x[0], x[1], x[2][:, :3]), "m3: has the shape (60, 3), the run takes (samples, 20)"),
        (lambda x: (x[0][:9], *x[1:]), "the numbers of samples differ: [9, 60, 60]"),
        (lambda x: tuple(one[:0] for one in x), "m1: has the shape (0, 20)"),
        (lambda x: (x[0] * float("nan"), *x[1:]), "m1: must hold finite floating-point numbers"),
        (lambda x: (x[0].long(), *x[1:]), "m1: must hold finite floating-point numbers"),
        (lambda x: ([["a"]], *x[1:]), "m1: not a tensor of numbers"),
        (lambda x: Path("new.npz"), "new.npz: cannot be read (FileNotFoundError"),
        (lambda x: Path("new.csv"), "new.csv: this run takes tensors: give an .npz file"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(
    on_tensors: tuple[Path, tuple[torch.Tensor, ...]], change: Callable[[Any], Any], message: str
) -> None:
    path, inputs = on_tensors
    assert message in error_of(lambda: load_run(path, device="cpu").predict(change(inputs)))


def test_ids_of_tensors(on_tensors: tuple[Path, tuple[torch.Tensor, ...]]) -> None:
    path, inputs = on_tensors
    loaded, names = load_run(path, device="cpu"), [f"x{i}" for i in range(60)]
    assert loaded.predict(inputs, ids=names).ids.tolist() == names
    assert "59 ids" in error_of(lambda: loaded.predict(inputs, ids=names[1:]))
    assert "an id is there twice" in error_of(lambda: loaded.predict(inputs, ids=["x"] * 60))
    assert "replicate=7: " in error_of(lambda: loaded.predict(inputs, replicate=7))


# --- tables that do not fit


def without(name: str) -> Callable[[dict[str, pd.DataFrame]], object]:
    return lambda made: made.pop(name)


BAD_TABLES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "modality": (without("images"), "no table of 'images'; the run reads 'genes', 'images'"),
    "more": (lambda t: t.update(sound=t["genes"]), "the run has no modality 'sound'; it reads"),
    "lacking": (lambda t: t["genes"].pop("genes2"), "genes{}: lacks 1 column ('genes2') that the run was trained with"),
    "extra": (lambda t: t["genes"].insert(0, "x", 1.0), "genes{}: has 1 column ('x') that the run was not trained"),
    "id": (lambda t: t.update(images=t["images"].iloc[1:]), "images{} lacks 1 id ('s0') of genes{}; mend the files"),
    "twice": (lambda t: t.update(genes=t["genes"].rename({"s1": "s0"})), "the id 's0' is also at"),
    "empty": (lambda t: t.update(genes=t["genes"].rename({"s1": " "})), "the id is empty"),
    "text": (lambda t: t.update(genes=t["genes"].astype(object).replace({t["genes"].iloc[0, 0]: "high"})), "'high'"),
    "nobody": (lambda t: t.update(genes=t["genes"].iloc[:0]), "genes"),
    "far": (lambda t: t["genes"].__setitem__("genes1", np.float32(3e38)), "column 'genes1' has a value too far from"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["bool", "datetime64[ns]", "complex64"])
def test_a_frame_of_what_is_no_number_is_refused(trained: Path, kind: str) -> None:
    made = tables()
    made["genes"]["genes2"] = made["genes"]["genes2"].fillna(0).round().astype("int64").astype(kind)
    said = error_of(lambda: load_run(trained, device="cpu").predict(made))
    assert said == f"genes: column 'genes2' holds {kind}, not integers or floats"


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_do_not_fit_are_one_line_as_files_and_as_frames(
    trained: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = BAD_TABLES[case]
    made = tables()
    change(made)
    said = error_of(lambda: load_run(trained, device="cpu").predict(made))
    assert message.replace("{}", "") in said
    folder = write(tmp_path / "new", made, labelled=False)
    assert main([f"run={trained}", f"data={folder}", f"output={tmp_path}/out.csv"]) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    for word in message.replace("genes{}", "genes.csv").replace("images{}", "images.parquet").split("; "):
        assert word in line
    assert line.startswith("error: ") and not captured.out and not (tmp_path / "out.csv").exists()


def test_missing_cells_are_refused_where_the_run_did_not_impute(study: Path, tmp_path: Path) -> None:
    whole = {name: table.fillna(1.0) for name, table in tables().items()}
    folder = write(tmp_path / "whole", whole)
    path = of_tables(folder, tmp_path, "dataset.impute=null", "method=logistic", "folds=[0]")
    loaded = load_run(path)
    assert "the value is missing; mend it (the run was trained without dataset.impute)" in error_of(
        lambda: loaded.predict(tables())
    )
    assert "trained without dataset.impute" in error_of(lambda: loaded.predict(study))
    assert "scales its samples itself: give data frames" in error_of(lambda: loaded.predict([torch.zeros(2, 6)] * 2))
    wrong: Any = {name: table.to_numpy() for name, table in whole.items()}
    assert "genes: must be a pandas DataFrame" in error_of(lambda: loaded.predict(wrong))


def test_where_the_run_left_out_ids_that_are_not_in_every_file_predicting_does(study: Path, tmp_path: Path) -> None:
    path = of_tables(study, tmp_path, "dataset.missing=drop", "method=logistic", "folds=[0]")
    made = tables()
    found = load_run(path).predict({"genes": made["genes"].iloc[2:], "images": made["images"].iloc[:9]})
    assert found.ids.tolist() == [f"s{i}" for i in range(2, 9)]


def test_labels_that_the_run_does_not_know(trained: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "new", tables())
    (folder / "labels.csv").write_text("id,label\n" + "".join(f"s{i},other\n" for i in range(60)))
    assert "line 2 (id 's0'), column label: 'other' is not a class of the run" in error_of(
        lambda: load_run(trained).predict(folder)
    )


# --- missing modalities


def test_samples_that_lack_a_modality_are_predicted_by_the_others_where_asked(trained: Path, tmp_path: Path) -> None:
    loaded, made = load_run(trained, device="cpu"), tables()
    whole = loaded.predict(made, replicate=0)
    assert same(loaded.predict(made, replicate=0, partial=True), vars(whole) | {"read_out": whole.own})
    some = {"genes": made["genes"].iloc[5:], "images": made["images"].iloc[:50]}
    some["images"].loc["s7"] *= np.float32(1)
    folder = write(tmp_path / "some", some, labelled=False)
    for source in (some, folder):
        found = loaded.predict(source, replicate=0, partial=True)
        assert found.ids.tolist() == [f"s{i}" for i in [*range(5, 60), *range(5)]]
        order = [whole.ids.tolist().index(one) for one in found.ids]
        both, own = slice(0, 45), found.own
        assert own is not None and found.shares is not None and whole.own is not None
        np.testing.assert_allclose(found.fused[both], whole.fused[order][both], rtol=1e-5)
        assert np.isnan(own[55:, 0]).all() and np.isnan(own[45:55, 1]).all() and np.isfinite(own[45:55, 0]).all()
        np.testing.assert_allclose(own[45:55, 0], whole.own[order][45:55, 0], rtol=1e-5)
        assert found.shares[45:55].tolist() == [[1.0, 0.0]] * 10 and found.shares[55:].tolist() == [[0.0, 1.0]] * 5
    other = {**some, "genes": made["genes"].iloc[5:] * np.float32(1)}
    other["genes"].loc[[f"s{i}" for i in range(50, 60)]] += np.float32(1)
    moved = loaded.predict(other, replicate=0, partial=True)
    assert not np.allclose(moved.fused[45:55], found.fused[45:55])
    alone = loaded.predict({"genes": made["genes"]}, replicate=0, partial=True)
    np.testing.assert_allclose(alone.fused[50:], found.fused[45:55], rtol=1e-5)
    assert "no table of 'genes', 'images'" in error_of(lambda: loaded.predict({}, partial=True))
    assert "no table of 'images'" in error_of(lambda: loaded.predict({"genes": made["genes"]}))


def test_labels_of_samples_without_any_modality_and_runs_that_need_all(
    study: Path, trained: Path, tmp_path: Path
) -> None:
    made = tables()
    folder = write(tmp_path / "new", {"genes": made["genes"].iloc[1:], "images": made["images"].iloc[1:9]})
    loaded = load_run(trained)
    assert f"{folder} lacks 1 id ('s0') of labels.csv" in error_of(lambda: loaded.predict(folder, partial=True))
    joint = of_tables(study, tmp_path, "method=logistic", "folds=[0]")
    some = {"genes": made["genes"], "images": made["images"].iloc[1:]}
    assert "LogisticRegression needs every modality" in error_of(lambda: load_run(joint).predict(some, partial=True))


# --- what is stored


def test_what_is_fitted_is_stored_by_fold_and_other_test_rows_do_not_change_it(trained: Path, tmp_path: Path) -> None:
    kept = torch.load(trained / "checkpoint.pt", weights_only=True)["replicates"]
    fitted = {number: FittedTables.of_state(state["preparation"]) for number, state in kept.items()}
    assert fitted[1].features == tuple(tuple(table.columns) for table in tables().values())
    scaling = fitted[1].scalings[0]
    train = tables()["genes"][fold_of() != 1]
    np.testing.assert_allclose(scaling.mean, train.iloc[:, scaling.columns].mean(), rtol=1e-6)
    filled = train.fillna(train.mean())
    np.testing.assert_allclose(scaling.sd, filled.iloc[:, scaling.columns].std(ddof=0), rtol=1e-5)
    assert [len(one.scalings[0].columns) for _, one in sorted(fitted.items())] == [5, 6, 6]  # constant without fold 0
    made = tables()
    for table in made.values():
        table[fold_of() == 1] = np.random.default_rng(9).normal(50, 9, (21, table.shape[1])).astype(np.float32)
    other = of_tables(write(tmp_path / "other", made), tmp_path / "runs", "method=multimodal", *TUNED)
    again = torch.load(other / "checkpoint.pt", weights_only=True)["replicates"]
    for part, tensors in kept[1].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, again[1][part][name]), (part, name)
    assert not torch.equal(kept[0]["preparation"]["0.mean"], again[0]["preparation"]["0.mean"])


# --- runs that do not predict, and runs from elsewhere


def test_runs_that_cannot_predict_are_one_line(trained: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(trained, tmp_path / name)
        return tmp_path / name

    assert "does not exist" in error_of(lambda: load_run(tmp_path / "nowhere"))
    assert "not a run directory" in error_of(lambda: load_run(tmp_path))
    unfinished = copy("unfinished")
    (unfinished / "result.json").unlink()
    assert "unfinished (interrupted, or still running)" in error_of(lambda: load_run(unfinished))
    damaged = copy("damaged")
    (damaged / "predictions.npz").write_bytes(b"PK")
    assert "predictions.npz is damaged" in error_of(lambda: load_run(damaged))
    light = copy("light")
    (light / "checkpoint.pt").unlink()
    assert "its weights, checkpoint.pt, are gone" in error_of(lambda: load_run(light))
    torn = copy("torn")
    (torn / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes()[:5000])
    assert "cannot read" in error_of(lambda: load_run(torn)) and "checkpoint.pt" in error_of(lambda: load_run(torn))
    changed = copy("changed")
    content = torch.load(changed / "checkpoint.pt", weights_only=True)
    content["replicates"][1]["preparation"]["0.mean"] += 1
    torch.save(content, changed / "checkpoint.pt")
    assert "changed since it was written" in error_of(lambda: load_run(changed))
    older = copy("older")
    del content["digest"], content["replicates"][1]["shapes"]
    torch.save(content, older / "checkpoint.pt")
    assert "made before runs kept all that predicting takes" in error_of(lambda: load_run(older))


def test_a_run_from_before_predicts_once_its_result_is_deleted_and_trains_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("tuning=none", "trainer=full_batch", "trainer.monitor=null", "folds=[1]", "backbone=linear")
    path = of_tables(study, tmp_path, *more)
    kept = (path / "predictions.npz").read_bytes()
    content = torch.load(path / "checkpoint.pt", weights_only=True)
    for state in content["replicates"].values():
        del state["shapes"], state["preparation"]
    del content["digest"]
    torch.save(content, path / "checkpoint.pt")
    (path / "result.json").unlink()
    monkeypatch.setattr(run_module.OrdinaryTrainer, "step", lambda _: pytest.fail("it trained"))
    assert of_tables(study, tmp_path, *more) == path and (path / "predictions.npz").read_bytes() == kept
    assert same(load_run(path).predict(rows(tables(), stored(path, 1)["ids"])), stored(path, 1))


@pytest.mark.parametrize("group", ["dataset", "backbone", "fusion", "tuning"])
@pytest.mark.parametrize("target", ["os.system", "evil.run", "multimodal_loss.files.remove_leftovers"])
def test_nothing_that_a_run_directory_names_is_executed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, target: str
) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()\ndef run(**_): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result = json.loads((path / "result.json").read_text())
    if group == "tuning":
        result["replicates"][0]["tuning"]["chosen"]["backbone._target_"] = target
    else:
        result["config"][group]["_target_"] = target
    (path / "result.json").write_text(json.dumps(result))
    kind = "backbone" if group == "tuning" else group
    assert f"its {kind} is {target}, no {kind} of this package" in error_of(lambda: load_run(path))
    assert not (tmp_path / "ran").exists()


def test_results_of_other_content_are_one_line_or_predict(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    good = json.loads((path / "result.json").read_text())
    left_out = {"metrics", "trials", "versions", "facts", "files", "hardware"}
    every = [place for place in places(good) if not left_out & set(place)]
    later = [("config", "trainer", "later"), ("config", "backbone", "later"), ("config", "fusion", "later")]
    wrong = 0
    for number, place in enumerate([*every, *later]):
        changed_result = changed(good, place, HOSTILE[number % len(HOSTILE)])
        (path / "result.json").write_text(json.dumps(changed_result))
        try:
            assert len(load_run(path, device="cpu").predict(tables()).ids) == 60
        except UserError as error:
            wrong += 1
            assert "\n" not in str(error)
    assert wrong > 40
    for change in (
        lambda r: r["dataset"]["classes"].append("d"),
        lambda r: r["dataset"]["inputs"].append("d"),
        lambda r: r["replicates"][0]["tuning"].update(chosen={"backbone.hidden": [11]}),
        lambda r: r["replicates"][0].update(replicate_id=9),
        lambda r: r["config"].update(fusion_input="scores"),
        lambda r: r["config"]["dataset"].update(later=1),
        lambda r: r.update(replicates=[]),
        lambda r: r.update(hash="0123456789"),
    ):
        result = json.loads(json.dumps(good))
        change(result)
        (path / "result.json").write_text(json.dumps(result))
        assert str(path) in error_of(lambda: load_run(path))


# --- the command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give run=... and data=..."),
        (["run={run}"], "give data=..."),
        (["run={run}", "data=x", "outptu=a.csv"], "outptu: predict has no such option (did you mean output?)"),
        (["run={run}", "data=x", "--data"], "--data: give every option once, as key=value"),
        (["run={run}", "data=x", "data=y"], "data=y: give every option once"),
        (["run={run}", "data=x", "replicate=first"], "replicate=first: must be a whole number"),
        (["run={run}", "data=x", "calibrated=maybe"], "calibrated=maybe: must be true or false"),
        (["run={run}", "data=x", "device=gpu9"], "device=gpu9 cannot be used here"),
        (["run={run}", "data=x", "output=a.txt"], "output=a.txt: must end in .csv or .parquet"),
        (["run={run}", "data=x", "output=no/where/a.csv"], "there is no folder no/where"),
        (["run={run}", "data=x", "replicate=[1"], "replicate=[1: cannot be read"),
        (["run=", "data=x"], "run=: must be text that is not empty"),
        (["run={run}", "data=nowhere"], "nowhere does not exist; the run reads 'genes', 'images'"),
    ],
)
def test_wrong_words_are_one_line_and_exit_with_2(
    trained: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(run=trained) for word in words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
