"""The guard of the reproduce targets: nothing is trained before the data are there."""

from pathlib import Path

import pandas as pd
import pytest

import require_dataset
from make_opportunity_like import write_like
from multimodal_loss.datasets.opportunity_channels import RUNS


def complaint(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What the guard says about missing data, after its `error: `."""
    assert require_dataset.main(list(overrides)) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == "" and line.startswith("error: ")
    return line.removeprefix("error: ")


def test_opportunity_is_all_there_or_the_guard_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "opportunity"
    overrides = ("dataset=opportunity", f"data_dir={tmp_path}")
    assert complaint(capsys, *overrides).startswith(f"{folder} does not exist; to get it: make data-opportunity")
    folder.mkdir()
    assert complaint(capsys, *overrides).startswith(
        f"{folder}: 18 of 18 files are not there, the first is S1-Drill.dat; to get it: make data-opportunity"
    )
    for run in RUNS[:5]:
        (folder / f"{run}.dat").write_text("not looked into")
    assert f"13 of 18 files are not there, the first is {RUNS[5]}.dat" in complaint(capsys, *overrides)
    for run in RUNS:
        (folder / f"{run}.dat").write_text("not looked into")
    assert require_dataset.main(list(overrides)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opportunity"]  # no cache, nothing prepared


def test_generated_recordings_are_not_taken_for_opportunity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_like(tmp_path / "like", size=0.001)
    assert "holds generated data" in complaint(capsys, "dataset=opportunity", f"dataset.path={tmp_path}/like")
    assert require_dataset.main(["dataset=opportunity_like", f"dataset.path={tmp_path}/like"]) == 0


def test_epic_is_all_there_or_the_guard_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("dataset=epic", f"data_dir={tmp_path}")
    assert complaint(capsys, *overrides).startswith(f"{tmp_path}/epic does not exist; to get it: make data-epic")
    for name in ("EPIC_100_train.csv", "EPIC_100_validation.csv", "frames/index.npy"):
        (tmp_path / "epic" / name).parent.mkdir(parents=True, exist_ok=True)
        assert f"{tmp_path}/epic/{name} does not exist" in complaint(capsys, *overrides)
        (tmp_path / "epic" / name).write_text("not looked into")
    assert require_dataset.main(list(overrides)) == 0
    assert "does not hold generated data" in complaint(capsys, *overrides, "dataset.generated=true")


def test_tables_that_are_missing_or_half_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tcga_subtypes"
    overrides = ("dataset=tcga_subtypes", f"data_dir={tmp_path}")
    missing = complaint(capsys, *overrides)
    assert missing.startswith(f"{folder} does not exist; to get it: make data-tcga-subtypes")
    folder.mkdir()
    assert str(folder) in complaint(capsys, *overrides)
    ids = [f"s{i}" for i in range(20)]
    pd.DataFrame({"id": ids, "label": [i % 2 for i in range(20)]}).to_csv(folder / "labels.csv", index=False)
    for modality in ("GE", "DM"):
        assert str(folder) in complaint(capsys, *overrides)
        pd.DataFrame({"id": ids, "x": range(20)}).to_parquet(folder / f"{modality}.parquet")
    assert require_dataset.main(list(overrides)) == 0


def test_overrides_of_a_sweep_are_looked_at_as_its_first_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = ("optimizer.lr=1e-3,5e-3", "seeds=[0],[1]", "trainer.max_epochs=choice(1,2)")
    assert require_dataset.main(["dataset=synthetic", *sweeps]) == 0
    swept = complaint(capsys, "dataset=tcga_brca,tcga_kipan", f"data_dir={tmp_path}", *sweeps)
    assert swept.startswith(f"{tmp_path}/tcga_brca does not exist")
    assert "wants quotes" in complaint(capsys, "dataset=synthetic", "seeds=[0")
    assert "--multirun" in complaint(capsys, "dataset=synthetic", "method=glob(*)")  # which is first, nobody knows yet


def test_data_without_a_folder_need_nothing_and_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert require_dataset.main(["dataset=synthetic"]) == 0
    assert "tcga_subtypes" in complaint(capsys, "dataset=tcga_subtype")
    assert "dataset.folds=1" in complaint(capsys, "dataset=tcga_subtypes", "dataset.folds=1")
    assert "path" in complaint(capsys, "dataset=tables")
