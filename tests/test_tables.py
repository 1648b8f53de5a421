"""A user's own tables: reading, matching, splitting and scaling against pandas and scikit-learn, and hostile files."""

import inspect
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multimodal_loss.datasets import table_files
from multimodal_loss.datasets.base import MultimodalData, Split
from multimodal_loss.datasets.table_files import read_ids, read_labels, read_table
from multimodal_loss.datasets.tables import TablesDataset
from multimodal_loss.errors import MissingData, UserError

ROOT = Path(__file__).resolve().parents[1]
IDS = [f"s{i:02d}" for i in range(60)]
LABELS = [("b", "a", "long name")[i * i % 7 % 3] for i in range(60)]
FOLDS = [i % 4 for i in range(60)]
SPLITS = [("train", "train", "validation", "train", "test")[i % 5] for i in range(60)]


def frame(seed: int, width: int) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(3, 2, (60, width)) * np.arange(1, width + 1)
    return pd.DataFrame(
        values.astype(np.float32), index=pd.Index(IDS, name="id"), columns=[f"g{j}" for j in range(width)]
    )


def write(folder: Path, **columns: list[object]) -> Path:
    """Two modalities of 60 samples, and labels.csv with the given columns beside the label."""
    folder.mkdir(parents=True, exist_ok=True)
    frame(0, 7).to_csv(folder / "genes.csv")
    frame(1, 4).iloc[::-1].reset_index().to_parquet(folder / "probes.parquet")
    pd.DataFrame({"id": IDS, "label": LABELS, **columns}).to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "study")


def small_blocks(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr(table_files, "BLOCK_BYTES", size)
    patch.setattr(table_files, "COLUMN_BYTES", 0)


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def expected_parts(fold: int) -> tuple[np.ndarray, np.ndarray]:
    splitter = StratifiedKFold(5, shuffle=True, random_state=0)
    return list(splitter.split(np.zeros(60), LABELS))[fold]


def same(a: MultimodalData, b: MultimodalData, part: str) -> bool:
    left, right = getattr(a, part), getattr(b, part)
    pairs = zip((*left.inputs, left.target), (*right.inputs, right.target), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# --- what is loaded


@pytest.mark.parametrize("fold", [0, 4])
def test_folds_and_scaling_are_those_of_scikit_learn(folder: Path, fold: int) -> None:
    dataset = TablesDataset(folder)
    assert dataset.num_folds == 5
    data = dataset.load(fold)
    train, test = expected_parts(fold)
    assert data.modalities == ("genes", "probes")
    assert data.classes == ("a", "b", "long name")
    assert data.validation is None
    for split, rows in ((data.train, train), (data.test, test)):
        assert [data.classes[c] for c in split.target] == [LABELS[i] for i in rows]
        for x, table in zip(split.inputs, (frame(0, 7), frame(1, 4)), strict=True):
            values = table.to_numpy(np.float64)
            oracle = StandardScaler().fit(values[train]).transform(values[rows])
            assert x.dtype == torch.float32
            np.testing.assert_allclose(x.numpy(), oracle, rtol=1e-6, atol=1e-6)


def test_without_scaling_the_numbers_are_those_of_the_file(folder: Path) -> None:
    data = TablesDataset(folder, modalities=["probes"], standardise=False).load(1)
    np.testing.assert_array_equal(data.test.inputs[0].numpy(), frame(1, 4).to_numpy()[expected_parts(1)[1]])


def test_the_order_of_rows_in_a_modality_is_of_no_consequence(folder: Path) -> None:
    before = TablesDataset(folder).load(2).fingerprint
    frame(0, 7).sample(frac=1, random_state=1).to_csv(folder / "genes.csv")
    assert TablesDataset(folder).load(2).fingerprint == before


def test_a_modality_has_another_name_than_the_fused_prediction(folder: Path) -> None:
    next(path for path in folder.iterdir() if path.stem != "labels").rename(folder / "fused.csv")
    with pytest.raises(
        UserError, match=r"fused\.csv: the fused prediction is called so; give the modality another name"
    ):
        TablesDataset(folder).load(0)


def test_modalities_come_in_the_order_asked_for(folder: Path) -> None:
    data = TablesDataset(folder, modalities=["probes", "genes"]).load(0)
    assert data.modalities == ("probes", "genes")
    assert data.feature_shapes == ((4,), (7,))
    assert TablesDataset(folder, modalities="genes").load(0).feature_shapes == ((7,),)  # type: ignore[arg-type]


def test_the_last_fold_is_kept_and_every_fold_has_its_fingerprint(folder: Path) -> None:
    dataset = TablesDataset(folder)
    first = dataset.load(0)
    assert dataset.load(0) is first
    assert len({dataset.load(fold).fingerprint for fold in range(5)}) == 5
    assert dataset.load(0) is not first
    assert dataset.load(0).fingerprint == first.fingerprint
    assert TablesDataset(folder, split_seed=1).load(0).fingerprint != first.fingerprint


def test_the_split_column(tmp_path: Path) -> None:
    dataset = TablesDataset(write(tmp_path, split=SPLITS), standardise=False)
    assert dataset.num_folds is None
    data = dataset.load()
    for part in ("train", "validation", "test"):
        rows = [i for i in range(60) if SPLITS[i] == part]
        np.testing.assert_array_equal(getattr(data, part).inputs[0].numpy(), frame(0, 7).to_numpy()[rows])
    assert "one fixed split" in error_of(lambda: dataset.load(0))


def test_the_split_column_needs_no_validation_rows_but_test_rows(tmp_path: Path) -> None:
    assert (
        TablesDataset(write(tmp_path, split=[s.replace("validation", "test") for s in SPLITS])).load().validation
        is None
    )
    write(tmp_path, split=["train"] * 60)
    assert "no sample is in the test part" in error_of(TablesDataset(tmp_path).load)


def test_the_fold_column(tmp_path: Path) -> None:
    dataset = TablesDataset(write(tmp_path, fold=FOLDS), standardise=False)
    assert dataset.num_folds == 4
    data = dataset.load(3)
    np.testing.assert_array_equal(data.test.inputs[0].numpy(), frame(0, 7).to_numpy()[3::4])
    assert len(data.train) == 45
    for fold in (None, 4, -1):
        assert "folds 0 to 3" in error_of(lambda fold=fold: dataset.load(fold))  # type: ignore[misc]


def test_fold_and_split_together(tmp_path: Path) -> None:
    splits = ["validation" if i % 3 == 0 else "train" for i in range(60)]
    data = TablesDataset(write(tmp_path, fold=FOLDS, split=splits), standardise=False).load(1)
    rows = {
        "test": [i for i in range(60) if i % 4 == 1],
        "validation": [i for i in range(60) if i % 4 != 1 and i % 3 == 0],
        "train": [i for i in range(60) if i % 4 != 1 and i % 3],
    }
    for part, wanted in rows.items():
        np.testing.assert_array_equal(getattr(data, part).inputs[0].numpy(), frame(0, 7).to_numpy()[wanted])
    write(tmp_path, fold=FOLDS, split=SPLITS)
    assert "line 6 (id 's04'), column split: 'test'" in error_of(TablesDataset(tmp_path).load)


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1.5"], ("-1.5", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["nan", "2", "10"], ("10", "2", "nan")),
        (["NA", "ü, v", "a\nb"], ("NA", "a\nb", "ü, v")),
    ],
)
def test_the_order_of_the_classes(folder: Path, labels: list[str], order: tuple[str, ...]) -> None:
    pd.DataFrame({"id": IDS, "label": labels * 20}).to_csv(folder / "labels.csv", index=False)
    data = TablesDataset(folder).load(0)
    assert data.classes == order
    assert data.test.target.bincount().tolist() == [4, 4, 4]
    turned = TablesDataset(folder, classes=order[::-1]).load(0)
    assert turned.classes == order[::-1]
    assert torch.equal(turned.test.target, 2 - data.test.target)


@pytest.mark.parametrize("label", ["nul\0", "\x1b[2J", "x" * 3000, "\u202egnp"])
def test_a_label_is_short_text_without_control_characters(tmp_path: Path, label: str) -> None:
    folder = write(tmp_path, label=["p", label] * 30)
    assert "line 3 (id 's01'), column label: " in error_of(lambda: TablesDataset(folder).load(0))


def test_a_thousand_classes(tmp_path: Path) -> None:
    ids = [str(i) for i in range(3000)]
    for name in "ab":
        pd.DataFrame({"id": ids, "x": np.arange(3000.0), "y": np.arange(3000.0) ** 2}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    pd.DataFrame({"id": ids, "label": [i % 1000 for i in range(3000)]}).to_csv(tmp_path / "labels.csv", index=False)
    data = TablesDataset(tmp_path, folds=3).load(2)
    assert data.classes == tuple(map(str, range(1000)))
    assert data.train.target.bincount().tolist() == [2] * 1000


# --- what is fitted, and on what


def spoil(folder: Path, rows: list[int]) -> None:
    """Other finite numbers in these rows of every modality."""
    for name, seed, width in (("genes", 0, 7), ("probes", 1, 4)):
        table = frame(seed, width)
        table.iloc[rows] = np.random.default_rng(9).normal(-50, 1000, (len(rows), width)).astype(np.float32)
        if name == "genes":
            table.to_csv(folder / "genes.csv")
        else:
            table.reset_index().to_parquet(folder / "probes.parquet")


OPTIONS: list[dict[str, object]] = [
    {},
    {"top_variance": 2},
    {"impute": "mean", "top_variance": 3},
    {"standardise": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("columns", [{}, {"fold": FOLDS}, {"split": SPLITS}])
def test_changing_test_rows_changes_no_training_tensor(
    tmp_path: Path, columns: dict[str, list[object]], options: dict[str, object]
) -> None:
    fold = None if "split" in columns else 1
    test = {"fold": [i for i in range(60) if i % 4 == 1], "split": [i for i in range(60) if i % 5 == 4]}.get(
        next(iter(columns), ""), list(expected_parts(1)[1])
    )
    folder = write(tmp_path, **columns)
    before = TablesDataset(folder, **options).load(fold)  # type: ignore[arg-type]
    spoil(folder, test)
    after = TablesDataset(folder, **options).load(fold)  # type: ignore[arg-type]
    assert same(before, after, "train")
    assert before.validation is None or same(before, after, "validation")
    assert not same(before, after, "test")
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("columns", [{}, {"split": SPLITS}])
def test_tuning_sees_nothing_of_the_test_part(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    folder, fold = write(tmp_path, **columns), None if columns else 2
    outer = [i for i in range(60) if SPLITS[i] == "train"] if columns else list(expected_parts(2)[0])
    splitter = StratifiedKFold(3, shuffle=True, random_state=0)
    inner = list(splitter.split(np.zeros(len(outer)), [LABELS[i] for i in outer]))
    before = [TablesDataset(folder, inner_folds=3, inner_fold=j).load(fold) for j in range(3)]
    for data, (train, held_out) in zip(before, inner, strict=True):
        values, train, held_out = frame(0, 7).to_numpy(np.float64), np.array(outer)[train], np.array(outer)[held_out]
        scaler = StandardScaler().fit(values[train])
        np.testing.assert_allclose(data.train.inputs[0].numpy(), scaler.transform(values[train]), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            data.test.inputs[0].numpy(), scaler.transform(values[held_out]), rtol=1e-6, atol=1e-6
        )
        assert data.validation is data.test
    spoil(folder, [i for i in range(60) if i not in outer])
    for j, data in enumerate(before):
        after = TablesDataset(folder, inner_folds=3, inner_fold=j).load(fold)
        assert after.fingerprint == data.fingerprint
        assert same(data, after, "train")
        assert same(data, after, "test")
    spoil(folder, [outer[i] for i in inner[0][1]])
    after = TablesDataset(folder, inner_folds=3, inner_fold=0).load(fold)
    assert same(before[0], after, "train")
    assert not same(before[0], after, "test")


def test_the_features_that_vary_most_in_the_training_part_are_kept_in_file_order(folder: Path) -> None:
    table = frame(0, 7)
    table["g1"] *= 100
    table.iloc[expected_parts(0)[1], 3] *= 1e6  # varies in the test part alone
    table.to_csv(folder / "genes.csv")
    data = TablesDataset(folder, top_variance=3, standardise=False).load(0)
    train = expected_parts(0)[0]
    wanted = sorted(np.argsort(-table.to_numpy(np.float64)[train].var(axis=0))[:3])
    assert 3 not in wanted
    np.testing.assert_array_equal(data.train.inputs[0].numpy(), table.to_numpy()[train][:, wanted])
    assert TablesDataset(folder, top_variance=5).load(0).feature_shapes == ((5,), (4,))


def test_imputing_is_that_of_scikit_learn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = frame(0, 7).astype(object)
    cells = np.random.default_rng(3).random((60, 7)) < 0.2
    cells[:, 6] = False
    oracle = frame(0, 7).mask(cells).to_numpy(np.float64)
    table = table.mask(cells, other=np.nan)
    for row, column in np.argwhere(cells)[:4]:
        table.iloc[row, column] = ("inf", "-inf", "NA", "1e39")[row % 4]
    table.to_csv(folder / "genes.csv")
    data = TablesDataset(folder, impute="mean").load(0)
    train, test = expected_parts(0)
    fitted = make_pipeline(SimpleImputer(), StandardScaler()).fit(oracle[train])
    np.testing.assert_allclose(data.train.inputs[0].numpy(), fitted.transform(oracle[train]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(data.test.inputs[0].numpy(), fitted.transform(oracle[test]), rtol=1e-5, atol=1e-5)
    assert f"genes.csv: {cells.sum()} missing or infinite cells" in capsys.readouterr().err


def test_features_constant_in_the_training_part_are_left_out_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = frame(0, 7)
    train, test = expected_parts(0)
    table.loc[[IDS[i] for i in train], ["g2", "g5"]] = 0.1  # its float64 mean is not exact
    table.to_csv(folder / "genes.csv")
    data = TablesDataset(folder).load(0)
    assert data.feature_shapes == ((5,), (4,))
    scaler = StandardScaler().fit(table.drop(columns=["g2", "g5"]).to_numpy(np.float64)[train])
    oracle = scaler.transform(table.drop(columns=["g2", "g5"]).to_numpy(np.float64)[test])
    np.testing.assert_allclose(data.test.inputs[0].numpy(), oracle, rtol=1e-6, atol=1e-6)
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1
    assert "genes.csv: 2 features ('g2', 'g5') left out: constant in the training part" in warned
    TablesDataset(folder).load(0)
    assert not capsys.readouterr().err  # it has been said


def test_a_feature_missing_from_the_whole_training_part_is_left_out(folder: Path) -> None:
    table = frame(0, 7)
    table.iloc[expected_parts(0)[0], 4] = np.nan
    table.to_csv(folder / "genes.csv")
    assert TablesDataset(folder, impute="mean").load(0).feature_shapes == ((6,), (4,))


def test_nothing_left_and_nothing_that_fits(folder: Path) -> None:
    (frame(0, 7) * 0 + 1).to_csv(folder / "genes.csv")
    assert "genes.csv: every feature is constant" in error_of(lambda: TablesDataset(folder).load(0))
    table = frame(0, 7)
    table["g1"] = np.arange(60) * 1e-40
    table.iloc[expected_parts(0)[1][0], 1] = 3e38
    table.to_csv(folder / "genes.csv")
    assert "genes.csv: column 'g1' has a value too far" in error_of(lambda: TablesDataset(folder).load(0))


@pytest.mark.parametrize("block", [1, 100, 10_000])
def test_the_size_of_the_blocks_is_of_no_consequence(folder: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    before = TablesDataset(folder, top_variance=3, impute="mean").load(3)
    small_blocks(monkeypatch, block)
    after = TablesDataset(folder, top_variance=3, impute="mean").load(3)
    assert torch.equal(before.test.target, after.test.target)
    for x, y in zip(before.test.inputs, after.test.inputs, strict=True):
        torch.testing.assert_close(x, y)  # sums are taken in another order


# --- groups

PATIENTS = [f"p{i * 3 // 5 % 36:02d}" for i in range(60)]  # of one to three samples


def patients(part: Split) -> set[str]:
    """Who the samples of a part are, told by the numbers of the first modality."""
    rows = {tuple(row): patient for row, patient in zip(frame(0, 7).to_numpy().tolist(), PATIENTS, strict=True)}
    return {rows[tuple(row)] for row in part.inputs[0].tolist()}


def parts_of(folder: Path, fold: int | None, **options: object) -> list[set[str]]:
    data = TablesDataset(folder, standardise=False, **options).load(fold)  # type: ignore[arg-type]
    return [patients(part) for part in (data.train, data.test)]


def test_no_group_is_in_two_parts_unless_groups_are_ignored(tmp_path: Path) -> None:
    grouped, plain = write(tmp_path / "grouped", group=PATIENTS), write(tmp_path / "plain")
    tested: list[str] = []
    for fold in range(5):
        train, test = parts_of(grouped, fold)
        assert train and test and not train & test
        tested += test
        for inner in range(3):
            inner_train, held_out = parts_of(grouped, fold, inner_folds=3, inner_fold=inner)
            assert held_out and not inner_train & held_out and inner_train | held_out == train
    assert sorted(tested) == sorted(set(PATIENTS))
    # The reading of the paper: just the folds of the samples, as if there were no such column.
    shared = 0
    for fold in range(5):
        for options in ({}, {"inner_folds": 3, "inner_fold": 1}):
            ignored = TablesDataset(grouped, groups="none", **options).load(fold)  # type: ignore[arg-type]
            assert ignored.fingerprint == TablesDataset(plain, **options).load(fold).fingerprint  # type: ignore[arg-type]
        train, test = parts_of(grouped, fold, groups="none")
        wanted = [{PATIENTS[i] for i in rows} for rows in expected_parts(fold)]
        assert [train, test] == wanted
        shared += len(train & test)
    assert shared


def test_grouped_folds_keep_the_shares_of_the_classes(tmp_path: Path) -> None:
    dataset = TablesDataset(write(tmp_path, group=PATIENTS))
    counts = torch.stack([dataset.load(fold).test.target.bincount(minlength=3) for fold in range(5)])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"fold": FOLDS}, "line 3 (id 's01'): group 'p00' is in another fold above; keep it in one, or set dataset."),
        ({"split": SPLITS}, "line 5 (id 's03'): group 'p01' is in another split above"),
        ({"fold": [int(p[1:]) % 2 for p in PATIENTS], "split": ["train", "validation"] * 30}, "another fold or split"),
        ({"group": ["p", ""] * 30}, "line 3 (id 's01'), column group: '' is not text of 1 to 200 letters"),
        ({"group": ["p", "q", "r"] * 20}, "labels.csv: groups to split: 3, fewer than the 5 of dataset.folds"),
    ],
)
def test_a_fold_or_split_that_divides_a_group_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    folder = write(tmp_path, **{"group": PATIENTS, **columns})
    fold = None if columns.keys() == {"split"} else 0
    assert message in error_of(lambda: TablesDataset(folder).load(fold))
    if "''" not in message:
        TablesDataset(folder, groups="none").load(fold)


def test_a_fold_column_that_keeps_groups_is_taken(tmp_path: Path) -> None:
    folds = [int(patient[1:]) % 3 for patient in PATIENTS]
    data = TablesDataset(write(tmp_path, group=PATIENTS, fold=folds), standardise=False).load(1)
    assert patients(data.test) == {p for p, f in zip(PATIENTS, folds, strict=True) if f == 1}


# --- ids that are not everywhere


def test_ids_must_be_everywhere_unless_dropped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame(0, 7).drop(index=["s01", "s17"]).to_csv(folder / "genes.csv")
    extra = pd.concat([frame(1, 4).drop(index=["s03"]), pd.DataFrame([[1.0] * 4], ["t9"], frame(1, 4).columns)])
    extra.rename_axis("sample").reset_index().to_parquet(folder / "probes.parquet")
    message = error_of(lambda: TablesDataset(folder).load(0))
    assert "genes.csv lacks 2 ids ('s01', 's17') of labels.csv" in message
    assert "probes.parquet lacks 1 id ('s03')" in message
    assert "probes.parquet has 1 id ('t9') that labels.csv lacks" in message
    capsys.readouterr()
    kept = [i for i in range(60) if i not in (1, 3, 17)]
    data = TablesDataset(folder, missing="drop", standardise=False).load(0)
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1
    assert "57 of 60 samples are left" in warned
    splitter = StratifiedKFold(5, shuffle=True, random_state=0)
    test = np.array(kept)[next(splitter.split(np.zeros(57), [LABELS[i] for i in kept]))[1]]
    for x, table in zip(data.test.inputs, (frame(0, 7), frame(1, 4)), strict=True):
        np.testing.assert_array_equal(x.numpy(), table.to_numpy()[test])
    alone = TablesDataset(folder, modalities=["probes"], missing="drop", standardise=False).load(0)
    assert torch.equal(alone.test.inputs[0], data.test.inputs[1])  # the same samples, whatever is used


def test_no_id_in_common(folder: Path) -> None:
    frame(0, 7).rename(index=lambda i: f"{i} ").to_csv(folder / "genes.csv")
    message = error_of(lambda: TablesDataset(folder, missing="drop").load(0))
    assert "no id is in every file" in message
    assert "'s00 '" in message


def test_ids_are_text(tmp_path: Path) -> None:
    """007 is not 7; whole numbers in a Parquet file match their digits in a CSV file."""
    ids = list(range(100, 160))
    frame(0, 7).set_index(pd.Index(ids, name="n")).to_csv(tmp_path / "genes.csv")
    frame(1, 4).set_index(pd.Index(ids, name="n")).reset_index().to_parquet(tmp_path / "probes.parquet")
    categories = frame(1, 4).set_index(pd.CategoricalIndex(map(str, ids), name="n")).reset_index()
    categories.to_parquet(tmp_path / "categories.parquet")
    pd.DataFrame({"id": ids, "label": LABELS}).to_csv(tmp_path / "labels.csv", index=False)
    assert len(TablesDataset(tmp_path).load(0).train) == 48
    (tmp_path / "genes.csv").write_text((tmp_path / "genes.csv").read_text().replace("\n107,", "\n0107,"))
    message = error_of(lambda: TablesDataset(tmp_path).load(0))
    assert "lacks 1 id ('107')" in message
    assert "has 1 id ('0107')" in message


# --- files


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(2**24), 2**24)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    width=st.integers(1, 5),
    ids=st.lists(
        st.text("ab ,\"'é#;\t0", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=8, unique=True
    ),
    block=st.sampled_from([1, 7, 64, 2**20]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_a_csv_file_that_pandas_wrote_is_read_back(
    tmp_path: Path, data: st.DataObject, width: int, ids: list[str], block: int, end: str, mark: str
) -> None:
    values = data.draw(
        st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=len(ids), max_size=len(ids))
    )
    names = [f"name, {j}" for j in range(width)]
    path = tmp_path / "x.csv"
    written = pd.DataFrame(values, index=pd.Index(ids, name=" "), columns=names, dtype=object)
    written.to_csv(path, lineterminator=end, encoding=mark)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, block)
        table = read_table(path)
    assert list(table.rows) == ids
    assert list(table.features) == names
    np.testing.assert_array_equal(table.values, np.array(values, dtype=np.float32))
    assert read_ids(path) == table.rows


@pytest.mark.parametrize("rows_per_group", [1, 3, 1000])
def test_a_parquet_file_reads_whatever_its_groups_and_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_group: int
) -> None:
    written = pd.DataFrame(
        {
            "g": np.arange(7, dtype=np.int64),
            "g.1": np.arange(7) * 0.5,  # asked for `g`, Parquet gives this one too
            "small": np.arange(7, dtype=np.uint8),
            "holes": pd.array([1, None, 3, 4, 5, 6, 7], dtype="Int64"),
            "floats": np.arange(7, dtype=np.float32),
        }
    )
    written.insert(0, "id", list("abcdefg"))
    written.to_parquet(tmp_path / "x.parquet", row_group_size=rows_per_group)
    small_blocks(monkeypatch, 8 * 7 * 2)
    table = read_table(tmp_path / "x.parquet", impute="mean")
    assert table.features == ("g", "g.1", "small", "holes", "floats")
    np.testing.assert_array_equal(table.values, written.drop(columns="id").to_numpy(np.float32, na_value=np.nan))
    assert table.rows == {name: row for row, name in enumerate("abcdefg")} == read_ids(tmp_path / "x.parquet")


def test_blank_lines_and_old_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for text in (b"id,x\ra,1\rb,2", b"\n\nid,x\n\na,1\n\n\nb,+2\n\n", b"id,x\r\na, 1 \r\nb,2e0"):
        path.write_bytes(text)
        table = read_table(path)
        assert table.rows == {"a": 0, "b": 1}
        assert table.values.tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_memory_holds_the_table_and_a_few_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Python's and NumPy's memory, and Arrow's, which has its own count."""
    values = np.random.default_rng(0).normal(size=(2000, 300))
    ids = [f"s{i}" for i in range(2000)]
    written = pd.DataFrame(values, index=pd.Index(ids, name="id"))
    written.columns = [f"g{j}" for j in range(300)]
    path = tmp_path / f"x.{suffix}"
    written.to_csv(path) if suffix == "csv" else written.reset_index().to_parquet(path)
    block = 2**18
    small_blocks(monkeypatch, block)
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        table = read_table(path)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert path.stat().st_size > 15 * block
    assert peak < table.values.nbytes + 8 * block
    assert 0 < pool.max_memory() < 8 * block


def replaced(old: str, new: str) -> Callable[[str], str | bytes]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def cell(row: int, column: int, new: str) -> Callable[[str], str | bytes]:
    def change(text: str) -> str:
        lines = [line.split(",") for line in text.splitlines()]
        lines[row][column] = new
        return "\n".join(map(",".join, lines))

    return change


BAD_FILES: list[tuple[str, Callable[[str], str | bytes], str]] = [
    ("genes.csv", lambda t: cell(8, 1, "x")(t).replace("\n", "\n\n", 3), "genes.csv line 12, column"),
    ("genes.csv", lambda t: cell(8, 1, "")(t).replace("\n", "\r\n\r\n", 3), "genes.csv line 12 (id 's07')"),
    ("genes.csv", lambda t: cell(8, 2, "1,2")(t).replace("\n", "\n\n", 3), "genes.csv line 12: "),
    ("genes.csv", lambda _: "", "genes.csv: the file is empty"),
    ("genes.csv", lambda t: t.splitlines()[0], "genes.csv: no rows under the header"),
    ("genes.csv", lambda t: t.splitlines()[0] + "\n\n\n", "genes.csv: no rows under the header"),
    ("genes.csv", cell(30, 3, "abc"), "genes.csv line 31, column 'g2': 'abc' is not a number"),
    ("genes.csv", cell(60, 7, "x\ny"), r"genes.csv line 61, column 'g6': 'x' is not a number"),
    ("genes.csv", cell(60, 7, '"x\ty"'), r"genes.csv line 61, column 'g6': 'x\ty' is not a number"),
    ("genes.csv", cell(2, 1, '"1,5"'), "genes.csv line 3, column 'g0': '1,5' is not a number"),
    ("genes.csv", cell(2, 1, "z" * 500), "'zzz"),
    ("genes.csv", cell(9, 1, "nan"), "genes.csv line 10 (id 's08'), column 'g0': the value is missing"),
    ("genes.csv", cell(9, 2, ""), "genes.csv line 10 (id 's08'), column 'g1': the value is missing"),
    ("genes.csv", cell(9, 2, "-inf"), "genes.csv line 10 (id 's08'), column 'g1': the value is infinite"),
    ("genes.csv", cell(9, 2, "1e39"), "genes.csv line 10 (id 's08'), column 'g1': the value is infinite, or too large"),
    ("genes.csv", cell(5, 0, "s01"), "genes.csv line 6: the id 's01' is also at line 3"),
    ("genes.csv", cell(5, 0, " "), "genes.csv line 6: the id is empty"),
    ("genes.csv", cell(0, 2, "g6"), "genes.csv: two columns are called 'g6'"),
    ("genes.csv", cell(5, 3, "1,2"), "genes.csv line 6: 9 columns where the header has 8"),
    ("genes.csv", lambda t: t[: t.rindex(",")], "genes.csv line 61: 7 columns where the header has 8"),
    ("genes.csv", replaced("s07,", '"s07,'), "genes.csv"),
    ("genes.csv", lambda t: t.replace(",", ";"), "genes.csv: columns must be separated by commas"),
    ("genes.csv", lambda t: t.replace(",", "\t"), "genes.csv: columns must be separated by commas"),
    ("genes.csv", lambda t: "\n".join(line.split(",")[0] for line in t.splitlines()), "genes.csv: only one column"),
    ("genes.csv", lambda t: t.encode("utf-16"), "genes.csv: not UTF-8"),
    ("genes.csv", lambda t: t.replace("g3", "é").encode("latin-1"), "genes.csv: not UTF-8"),
    ("genes.csv", lambda t: t.replace("s40", "é").encode("latin-1"), "genes.csv"),
    ("genes.csv", lambda t: t.encode() + b"\xff\xfe" * 20_000, "genes.csv"),
    ("probes.parquet", lambda _: "", "probes.parquet: the file is empty"),
    ("probes.parquet", lambda _: "id,a\nx,1\n", "probes.parquet: cannot be read as Parquet"),
    ("labels.csv", lambda _: "", "labels.csv: the file is empty"),
    ("labels.csv", lambda _: "id,label\n", "labels.csv: no rows under the header"),
    ("labels.csv", replaced("id,label", "id,class"), "labels.csv: no column label"),
    ("labels.csv", replaced("id,label", "id,Label"), "labels.csv: no column label"),
    ("labels.csv", cell(4, 1, ""), "labels.csv line 5 (id 's03'), column label: '' is not"),
    ("labels.csv", cell(4, 1, "  "), "labels.csv line 5 (id 's03'), column label"),
    ("labels.csv", cell(4, 0, "s00"), "labels.csv line 5: the id 's00' is also at line 2"),
    ("labels.csv", cell(4, 0, ""), "labels.csv line 5: the id is empty"),
    (
        "labels.csv",
        cell(4, 1, "rare"),
        "labels.csv: samples of class 'rare' to split: 1, fewer than the 5 of dataset.folds; merge or leave out the",
    ),
    (
        "labels.csv",
        cell(4, 1, "a "),
        "column label: 'a ' is not text of 1 to 200 letters, without control characters or",
    ),
    ("genes.csv", lambda t: t[t.index("\n") + 1 :], "genes.csv: its first line is a sample ('s00'); give the columns"),
    ("labels.csv", lambda t: t.replace("s01", "s\xe9").encode("latin-1"), "labels.csv: not UTF-8"),
    ("labels.csv", lambda t: "id,label\n" + "".join(f"{i},one\n" for i in IDS), "all samples have the label 'one'"),
    ("labels.csv", lambda t: "id,label,Split\n" + "".join(f"{i},1,train\n" for i in IDS), "unknown column 'Split'"),
    (
        "labels.csv",
        lambda t: "id,label,split\n" + "".join(f"{i},1,Train\n" for i in IDS),
        "'Train' is not one of train",
    ),
    ("labels.csv", lambda t: "id,label,fold\n" + "".join(f"{i},1,1.0\n" for i in IDS), "'1.0' is not a whole number"),
    ("labels.csv", lambda t: "id,label,fold\n" + "".join(f"{i},1,-1\n" for i in IDS), "'-1' is not a whole number"),
    (
        "labels.csv",
        lambda t: "id,label,fold\n" + "".join(f"{i},1,{j % 2 * 7}\n" for j, i in enumerate(IDS)),
        "has 0, 7;",
    ),
    ("labels.csv", lambda t: "id,label,fold\n" + "".join(f"{i},1,0\n" for i in IDS), "column fold has 0;"),
    (
        "labels.csv",
        lambda t: "id,label,fold\n" + "".join(f"{i},{j % 2},{j % 2}\n" for j, i in enumerate(IDS)),
        "class '0' has no sample in the training part",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD_FILES)
def test_a_bad_file_is_one_clear_line(
    folder: Path, name: str, change: Callable[[str], str | bytes], message: str
) -> None:
    path = folder / name
    changed = change(path.read_text() if path.suffix == ".csv" else "")
    path.write_bytes(changed.encode() if isinstance(changed, str) else changed)
    given = error_of(lambda: TablesDataset(folder).load(0))
    assert message in given
    assert str(path) in given
    assert len(given) < 300 + len(str(folder))


def test_a_bad_cell_is_found_in_every_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "genes.csv"
    text = path.read_text()
    small_blocks(monkeypatch, 300)
    for row in range(1, 61):
        path.write_text(str(cell(row, 4, "?")(text)))
        assert f"line {row + 1}, column 'g3': '?'" in error_of(lambda: read_table(path))
    path.write_text(str(cell(50, 4, "1,1")(text)))
    assert "line 51: 9 columns" in error_of(lambda: read_table(path))


def test_bytes_that_are_not_utf_8_are_found_far_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.csv"
    lines = ["id,g0", *(f"s{i},{i}" for i in range(5000))]
    for block in (1000, 2**20):
        small_blocks(monkeypatch, block)
        for new, message in (("é,1", "line 4001: not UTF-8"), ("s3999,é", "line 4001, column 'g0'")):
            path.write_bytes("\n".join([*lines[:4000], new, *lines[4001:]]).encode("latin-1"))
            assert message in error_of(lambda: read_table(path))
    path.write_bytes("\n".join(["id,label", *lines[1:4000], "s3999,é"]).encode("latin-1"))
    assert "line 4001: not UTF-8" in error_of(lambda: read_labels(path))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("g0", ["x"] * 60, "column 'g0' holds large_string, not integers or floats"),
        ("g0", [True] * 60, "column 'g0' holds bool"),
        ("id", np.arange(60.0), "the first column, 'id', holds double, not ids"),
        ("id", ["s00", None, *IDS[2:]], "row 2: the id is empty"),
        ("id", [*IDS[:59], "s04"], "row 60: the id 's04' is also at row 5"),
        ("g2", [*range(59), None], "row 60 (id 's00'), column 'g2': the value is missing"),
        ("g2", [1e300, *range(59)], "row 1 (id 's59'), column 'g2': the value is infinite"),
    ],
)
def test_a_bad_parquet_file(folder: Path, column: str, values: list[object], message: str) -> None:
    table = pd.read_parquet(folder / "probes.parquet")
    table[column] = values
    table.to_parquet(folder / "probes.parquet")
    assert f"probes.parquet{':' if message[0] in 'ct' else ''} {message}" in error_of(
        lambda: TablesDataset(folder).load(0)
    )


def test_a_parquet_file_without_rows_and_a_cut_one(folder: Path) -> None:
    path = folder / "probes.parquet"
    whole = path.read_bytes()
    pd.read_parquet(path).iloc[:0].to_parquet(path)
    assert "probes.parquet: no rows" in error_of(lambda: TablesDataset(folder).load(0))
    path.write_bytes(whole[:100] + bytes(200) + whole[300:])
    error_of(lambda: TablesDataset(folder).load(0))
    path.write_bytes(whole[:-50])
    assert "probes.parquet: cannot be read as Parquet" in error_of(lambda: TablesDataset(folder).load(0))


def missing(folder: Path, **options: object) -> str:
    """What `require_files` and `load` say is missing."""
    with pytest.raises(MissingData) as caught:
        TablesDataset(folder, **options).require_files()  # type: ignore[arg-type]
    assert error_of(TablesDataset(folder, **options).load) == str(caught.value)  # type: ignore[arg-type]
    return str(caught.value)


def test_what_the_folder_must_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TablesDataset(folder).require_files()
    assert missing(folder / "elsewhere") == f"{folder / 'elsewhere'} does not exist"
    assert missing(folder / "labels.csv") == f"{folder / 'labels.csv'} is not a folder"
    (folder / "more.tsv").write_text("id\tx\n")
    (folder / ".hidden.csv").write_text("id,x\n")
    TablesDataset(folder).require_files()
    assert "1 file ('more.tsv') not read" in capsys.readouterr().err
    (folder / "probes.csv").write_text("id,x\n")
    assert "probes.csv and probes.parquet are one modality" in error_of(TablesDataset(folder).require_files)
    (folder / "probes.csv").unlink()
    (folder / "probes.parquet").unlink()
    assert "only one modality, genes.csv" in missing(folder, modalities=["genes"])
    (folder / "genes.csv").unlink()
    assert "no modality" in missing(folder)
    (folder / "labels.csv").unlink()
    assert "no labels.csv" in missing(folder)


def test_the_fingerprint_is_that_of_the_bytes_that_are_read(folder: Path, tmp_path: Path) -> None:
    before = TablesDataset(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "elsewhere")
    (folder / "README.md").write_text("of no consequence")
    assert TablesDataset(tmp_path / "elsewhere", folds=3).fingerprint() == before
    genes, dropped = (TablesDataset(folder, modalities=["genes"], missing=m).fingerprint() for m in ("error", "drop"))
    spoil(folder, [3])
    assert TablesDataset(folder).fingerprint() != before
    frame(0, 7).to_csv(folder / "genes.csv")  # as before; the probes are spoilt
    assert TablesDataset(folder, modalities=["genes"]).fingerprint() == genes
    assert (
        TablesDataset(folder, modalities=["genes"], missing="drop").fingerprint() != dropped
    )  # ids of all files count
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text() + "\n")
    assert TablesDataset(folder, modalities=["genes"]).fingerprint() != genes
    assert "does not exist" in error_of(TablesDataset(folder / "nowhere").fingerprint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["genes", "x"]}, "choose from genes, probes"),
        ({"modalities": []}, "choose from genes, probes"),
        ({"modalities": ["genes", "genes"]}, "each once"),
        ({"missing": "ignore"}, "dataset.missing=ignore: must be one of error, drop"),
        ({"groups": "patient"}, "dataset.groups=patient: must be one of auto, none"),
        ({"impute": "median"}, "dataset.impute=median: must be one of null, mean"),
        ({"folds": 1}, "dataset.folds=1"),
        ({"folds": 2.5}, "dataset.folds=2.5"),
        ({"folds": 30}, "fewer than the 30 of dataset.folds"),
        ({"split_seed": -1}, "dataset.split_seed=-1"),
        ({"top_variance": 0}, "dataset.top_variance=0"),
        (
            {"classes": ["a", "b"]},
            "labels.csv line 5 (id 's03'), column label: 'long name' is not in dataset.classes ('a', 'b')",
        ),
        ({"classes": ["a", "b", "long name", "d"]}, "samples of class 'd' to split: 0"),
        ({"classes": ["a", "b", "long name", "a"]}, "name each class once"),
        ({"inner_folds": 3}, "give both, or neither"),
        ({"inner_fold": 0}, "give both, or neither"),
        ({"inner_folds": 3, "inner_fold": 3}, "must lie in 0..2"),
        ({"inner_folds": 30, "inner_fold": 3}, "fewer than the 30 of tuning.inner_folds (or of dataset.inner_folds"),
    ],
)
def test_a_bad_option_is_one_clear_line(folder: Path, options: dict[str, object], message: str) -> None:
    assert message in error_of(lambda: TablesDataset(folder, **options).load(0))  # type: ignore[arg-type]


def test_the_config_has_every_option_with_its_default() -> None:
    config = yaml.safe_load((ROOT / "conf/dataset/tables_base.yaml").read_text())["dataset"]
    assert (config.pop("_target_"), config.pop("path")) == ("multimodal_loss.datasets.TablesDataset", "???")
    parameters = inspect.signature(TablesDataset.__init__).parameters
    assert config == {name: p.default for name, p in parameters.items() if name not in ("self", "path")}
