"""OPPORTUNITY against its own documents, the released preprocessing spelled out, and files that are wrong."""

import inspect
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import csv
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import make_opportunity_like
from make_opportunity_like import GENERATED_MARKER, make_table, true_rows, write_like
from multimodal_loss.datasets import Split, opportunity_channels, opportunity_files
from multimodal_loss.datasets import cache as cache_files
from multimodal_loss.datasets.cache import sha256_of
from multimodal_loss.datasets.opportunity import OpportunityDataset, WindowSplit, sample_wise, window_starts
from multimodal_loss.datasets.opportunity_channels import (
    CHANNEL_COLUMNS,
    DEVICES,
    RUNS,
    TEST_RUNS,
    PublishedFile,
    channel_range,
    column_names,
    label_track,
    manifest,
    thresholds,
)
from multimodal_loss.datasets.opportunity_files import interpolate, read_recording, to_unit_range
from multimodal_loss.errors import MissingData, UserError

ROOT = Path(__file__).resolve().parents[1]
ROWS = 130
# The codes of the two tasks, class by class, as the released code lists them.
LOCOMOTION = [0, 1, 2, 4, 5]
GESTURES = [0, 406516, 406517, 404516, 404517, 406520, 404520, 406505, 404505, 406519, 404519, 406511, 404511, 406508]
GESTURES += [404508, 408512, 407521, 405506]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 generated recordings of 120 or more rows."""
    path = tmp_path_factory.mktemp("opportunity")
    write_like(path, size=0.003)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """A recording of 130 lines, as tokens."""
    path = tmp_path_factory.mktemp("recording") / "S1-ADL1.dat"
    options = csv.WriteOptions(include_header=False, delimiter=" ", null_string="NaN", quoting_style="none")
    csv.write_csv(make_table("S1-ADL1", ROWS, seed=3), path, options)
    return [line.split(" ") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def short(text: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of three lines."""
    return write(tmp_path_factory.mktemp("short") / "S1-ADL1.dat", text[:3])


def write(path: Path, lines: list[list[str]], end: str = "\n") -> Path:
    path.write_bytes(("\n".join(" ".join(tokens) for tokens in lines) + end).encode("latin-1"))
    return path


# --- what the columns are


def test_channels_are_the_body_sensors_without_quaternions() -> None:
    body = range(1, 134)
    assert all(column_names()[c].startswith(("Accelerometer", "InertialMeasurementUnit")) for c in body)
    assert list(CHANNEL_COLUMNS) == [c for c in body if "Quaternion" not in column_names()[c]]
    # The released code's list, of 0-based columns, and 1-based the challenge's subset in the archive's documents.
    ranges = [(0, 45), (50, 58), (63, 71), (76, 84), (89, 97), (102, 133)]
    assert [0, *CHANNEL_COLUMNS] == [c for first, last in ranges for c in range(first, last + 1)]


def test_a_modality_is_a_device_of_the_documents() -> None:
    sensors = [" ".join(column_names()[c].split()[:2]) for c in CHANNEL_COLUMNS]
    groups = [(name, len(list(group))) for name, group in itertools.groupby(sensors)]
    assert [d.width for d in DEVICES] == [width for _, width in groups] == [3] * 12 + [9] * 5 + [16] * 2
    assert len({name for name, _ in groups}) == len({d.name for d in DEVICES}) == 19
    long = {"RKN^": "rkn_upper", "RKN_": "rkn_lower", "LUA^": "lua_upper", "LUA_": "lua_lower", "RUA^": "rua_upper"}
    long |= {"RUA_": "rua_lower"}
    for device, (sensor, _) in zip(DEVICES, groups, strict=True):
        kind, place = sensor.split()
        if place.endswith("SHOE"):
            assert device.name == f"shoe_{'left' if place[0] == 'L' else 'right'}"
        else:
            short = "acc" if kind == "Accelerometer" else "imu"
            assert device.name == f"{short}_{long.get(place, place.lower())}"
    ends = [channel_range(d) for d in DEVICES]
    assert [first for first, _ in ends] == [0, *(end for _, end in ends[:-1])] and ends[-1][1] == 113


def expected_threshold(name: str) -> tuple[float, float]:
    _, place, quantity = name.split()
    if place.endswith("SHOE"):
        special = {"EuX": (-250, 250), "EuY": (-100, 25), "EuZ": (-200, 200), "Compass": (-250, 250)}
        return special.get(quantity, (-10000, 10000) if quantity.startswith("AngVel") else (-5000, 5000))
    return {"acc": (-3000, 3000), "gyr": (-10000, 10000), "mag": (-1000, 1500)}[quantity[:3]]


def test_thresholds_and_what_zero_becomes() -> None:
    low, high = thresholds()
    assert list(zip(low, high, strict=True)) == [expected_threshold(column_names()[c]) for c in CHANNEL_COLUMNS]
    zeros = np.zeros((1, 113))
    to_unit_range(zeros)
    names = [column_names()[c] for c in CHANNEL_COLUMNS]
    expected = [0.4 if "magnetic" in n else 0.8 if n.endswith("EuY") else 0.5 for n in names]
    np.testing.assert_allclose(zeros[0], expected, rtol=0, atol=1e-12)


def test_scaling_clips_as_the_released_code() -> None:
    low, high = thresholds()
    frames = np.stack([low, high, high + 1, low - 1, high * 3, low * 9])
    to_unit_range(frames)
    assert (frames == np.array([0, 1, 0.99, 0, 0.99, 0])[:, None]).all()


def test_label_codes_and_names() -> None:
    assert label_track("Locomotion") == (tuple(LOCOMOTION), ("Null", "Stand", "Walk", "Sit", "Lie"))
    codes, names = label_track("ML_Both_Arms")
    assert list(codes) == GESTURES
    assert names[:2] == ("Null", "Open Door 1") and names[15:] == ("Clean Table", "Drink from Cup", "Toggle Switch")
    columns = column_names()
    assert [columns[c].strip() for c, _ in opportunity_channels.TASKS.values()] == ["Locomotion", "ML_Both_Arms"]
    assert [c.strip() for c in columns[243:]] == list(opportunity_channels.LABEL_TRACKS) and len(columns) == 250


def test_the_manifest_has_the_published_sizes() -> None:
    assert sum(file.size for file in manifest().values()) == 885_433_599 and len(manifest()) == 24
    assert manifest()["S3-Drill"].size == 72_116_889 and manifest()["S3-Drill"].sha256.startswith("3f5c13d4e52ea96f")
    assert set(RUNS) < set(manifest()) and len(RUNS) == 18 and not any(run.startswith("S4") for run in RUNS)


# --- splits and windows at the true size


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({}, {"train": 41_416, "validation": 5_078, "test": 9_894}),
        ({"validation_runs": []}, {"train": 46_495, "test": 9_894}),
        ({"profile": "strc_py3_2021"}, {"train": 43_985, "validation": 2_509, "test": 118_727}),
    ],
)
def test_true_numbers_of_windows(options: dict[str, str], windows: dict[str, int]) -> None:
    dataset = OpportunityDataset("nowhere", **options)  # type: ignore[arg-type]
    steps = {"train": dataset.step, "validation": dataset.step, "test": dataset.test_step}
    rows = {split: sum(true_rows()[run] for run in runs) for split, runs in dataset.runs().items()}
    assert {s: len(window_starts(n, dataset.window, steps[s])) for s, n in rows.items()} == windows
    assert sum(rows.values()) == 676_713 and rows["test"] == 118_750


def test_order_of_recordings() -> None:
    runs = OpportunityDataset("nowhere").runs()
    assert runs["train"] == (
        *("S1-Drill", "S1-ADL1", "S1-ADL2", "S1-ADL3", "S1-ADL4", "S1-ADL5"),
        *("S2-Drill", "S2-ADL1", "S2-ADL2", "S3-Drill", "S3-ADL1", "S3-ADL2"),
    )
    assert runs["validation"] == ("S2-ADL3", "S3-ADL3")
    assert runs["test"] == TEST_RUNS == ("S2-ADL4", "S2-ADL5", "S3-ADL4", "S3-ADL5")


@given(rows=st.integers(0, 200), window=st.integers(1, 40), step=st.integers(1, 30))
def test_window_starts_are_all_whole_windows(rows: int, window: int, step: int) -> None:
    assert window_starts(rows, window, step).tolist() == [s for s in range(0, rows, step) if s + window <= rows]


@given(rows=st.integers(1, 150), window=st.integers(1, 40), step=st.integers(1, 30))
def test_sample_wise_takes_the_first_window_that_ends_at_or_after_a_sample(rows: int, window: int, step: int) -> None:
    ends = [start + window - 1 for start in range(0, rows, step) if start + window <= rows]
    predictions = np.arange(len(ends))[:, None] * [1, 10]
    if not ends:
        with pytest.raises(ValueError, match="0 windows"):
            sample_wise(predictions, rows, window, step)
        return
    expected = [next((k for k, end in enumerate(ends) if end >= t), len(ends) - 1) for t in range(rows)]
    np.testing.assert_array_equal(sample_wise(predictions, rows, window, step), np.outer(expected, [1, 10]))
    with pytest.raises(ValueError, match="windows"):
        sample_wise(predictions[1:], rows, window, step)


# --- interpolation


@settings(max_examples=150, deadline=None)
@given(
    frames=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 30), st.integers(1, 4)),
        elements=st.just(np.nan) | st.integers(-9999, 9999),
    )
)
def test_interpolation_is_that_of_pandas(frames: np.ndarray) -> None:
    released = pd.DataFrame(frames).interpolate().fillna(0).to_numpy()
    ours = frames.copy(order="F")
    interpolate(ours, "repeat")
    np.testing.assert_allclose(ours, released, rtol=0, atol=1e-9)
    # The port: what lies after the last value is 0 before anything else.
    table = pd.DataFrame(frames)
    for name in table:
        last = table[name].last_valid_index()
        table.loc[0 if last is None else last + 1 :, name] = 0
    ours = frames.copy()
    interpolate(ours, "zero")
    np.testing.assert_allclose(ours, table.interpolate().fillna(0).to_numpy(), rtol=0, atol=1e-9)


# --- reading


def test_reading_gives_the_numbers_of_the_file(text: list[list[str]], tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "x.dat", text))
    wanted = np.array(text, dtype=np.float64)
    np.testing.assert_array_equal(recording.frames, wanted[:, list(CHANNEL_COLUMNS)])
    assert np.isnan(wanted[:, 1]).any() and not np.isnan(wanted[:, 1]).all()
    assert recording.labels[:, 0].tolist() == [LOCOMOTION.index(int(c)) for c in wanted[:, 243]]
    assert recording.labels[:, 1].tolist() == [GESTURES.index(int(c)) for c in wanted[:, 249]]
    assert len(set(recording.labels[:, 1].tolist())) > 1
    for end in ("", "\r\n"):  # the last line may lack its end, and lines may end as on Windows
        again = read_recording(write(tmp_path / "y.dat", [[*t[:-1], t[-1] + end[:-1]] for t in text], end[-1:]))
        np.testing.assert_array_equal(again.frames, recording.frames)


def cell(row: int, column: int, value: str) -> Callable[[list[list[str]]], list[list[str]]]:
    def change(lines: list[list[str]]) -> list[list[str]]:
        lines[row][column] = value
        return lines

    return change


def shuffled(lines: list[list[str]]) -> list[list[str]]:
    order = np.random.default_rng(0).permutation(250)
    return [[tokens[i] for i in order] for tokens in lines]


def challenge(lines: list[list[str]]) -> list[list[str]]:
    return [[tokens[c] for c in (0, *CHANNEL_COLUMNS, 243, 249)] for tokens in lines]


def swapped(a: int, b: int) -> Callable[[list[list[str]]], list[list[str]]]:
    def change(lines: list[list[str]]) -> list[list[str]]:
        for tokens in lines:
            tokens[a], tokens[b] = tokens[b], tokens[a]
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (cell(40, 249, "506616"), r"line 41, column 250 \(ML_Both_Arms\): 506616 is no code .* 2011 challenge"),
        (cell(129, 249, "4065"), r"line 130, column 250 \(ML_Both_Arms\): 4065 is no code .* cut short"),
        (cell(6, 243, "3"), r"line 7, column 244 \(Locomotion\): 3 is no code"),
        (cell(6, 243, "NaN"), r"line 7, column 244 \(Locomotion\): nan is no code"),
        (cell(6, 243, "nan"), r"line 7, column 244 \(Locomotion\): 'nan' is neither"),
        (cell(6, 243, "101"), r"line 7, column 244 \(Locomotion\): 101 is no code .* challenge"),
        (cell(6, 243, "1.5"), r"line 7, column 244 \(Locomotion\): '1.5' is neither"),
        (
            cell(99, 34, "abc"),
            r"line 100, column 35 \(Accelerometer RH accX\): 'abc' is neither NaN nor a whole number",
        ),
        (cell(99, 34, ""), r"line 100, column 35 \(Accelerometer RH accX\): '' is neither"),
        (cell(99, 34, "1_0"), r"line 100, column 35 \(Accelerometer RH accX\): '1_0' is neither"),
        (cell(99, 34, '"'), r"line 100, column 35 \(Accelerometer RH accX\): '\"' is neither"),
        (cell(99, 34, "1\u00b2"), r"line 100, column 35 \(Accelerometer RH accX\): .* is neither"),
        (cell(99, 34, "inf"), r"line 100, column 35 \(Accelerometer RH accX\): 'inf' is neither"),
        (cell(99, 34, "5\x0b"), r"line 100, column 35 \(Accelerometer RH accX\): '5\\x0b' is neither"),
        (cell(99, 34, "2147483648"), r"line 100, column 35 \(Accelerometer RH accX\): '2147483648' is neither"),
        (cell(99, 34, "9" * 9_999), r"line 100, column 35 \(Accelerometer RH accX\): '9{40}' is neither"),
        (cell(99, 46, "0x1F"), r"line 100: a tab, an x or a carriage return that ends no line"),
        (cell(99, 46, "\t7"), r"line 100: a tab, an x or"),
        (cell(99, 46, "7\r8"), r"line 100: a tab, an x or"),
        (cell(41, 249, "0\r\r"), r"line 42, column 250 \(ML_Both_Arms\): '0\\r' is neither"),
        (cell(0, 0, "\xef\xbb\xbf0"), r"line 1, column 1 \(MILLISEC\): '.*0' is neither"),
        (lambda lines: [["\r".join(" ".join(tokens) for tokens in lines)]], r"line 1: 32371 columns where 250 belong"),
        (cell(70, 0, "inf"), r"line 71, column 1 \(MILLISEC\): 'inf' is neither"),
        (cell(0, 0, "NaN"), r"line 1, column 1 \(MILLISEC\)"),
        (cell(0, 0, "-5"), r"line 1, column 1 \(MILLISEC\)"),
        (cell(70, 0, "1"), r"line 71, column 1 \(MILLISEC\): 1 after 2300"),
        (cell(50, 3, "5 6"), r"line 51: 251 columns where 250 belong"),
        (lambda lines: [*lines[:50], [""], *lines[50:]], r"line 51: 1 columns where 250 belong"),
        (lambda lines: [t[:-1] for t in lines], r"line 1: 249 columns where 250 belong"),
        (lambda lines: [["", *t] for t in lines], r"line 1: 251 columns where 250 belong"),
        (challenge, r"line 1: 116 columns where 250 belong.*2011 challenge"),
        (swapped(0, 1), r"line 1, column 1 \(MILLISEC\)"),
        (swapped(0, 46), r"line \d+, column 1 \(MILLISEC\)"),
        (swapped(249, 248), r"line \d+, column 250 \(ML_Both_Arms\)"),
        (swapped(243, 244), r"line \d+, column 244 \(Locomotion\): 10\d is no code"),
        (shuffled, r"line \d+, column \d+"),
        (lambda lines: [[str(50 * i), *t[1:]] for i, t in enumerate(lines)], r"line 2, column 1 .*: steps of 50"),
        (lambda lines: [["0" * 20_000_000]], r"line 1: 1 columns where 250 belong"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where(
    change: Callable[[list[list[str]]], list[list[str]]], wrong: str, text: list[list[str]], tmp_path: Path
) -> None:
    path = write(tmp_path / "S1-ADL1.dat", change([list(tokens) for tokens in text]))
    with pytest.raises(UserError) as error:
        read_recording(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path)) and re.search(wrong, message), message
    assert "make data-opportunity" in message


@settings(max_examples=150, deadline=None)
@given(
    token=st.text("0157-+NaninfexX._\t\x0b\r ", max_size=6)
    | st.sampled_from(["1.5", "1e3", "1e-400", "nan", "-nan", "nan(abc)", "-NaN", "+5", "-5", "0x1F", "\t5", "5\x0c"]),
    column=st.sampled_from([0, 1, 133, 243, 249]),
)
def test_only_whole_numbers_and_nan_are_read(token: str, column: int, short: Path) -> None:
    """Whatever the fast reader makes of a token: a number that others would not see is never read as one."""
    lines = [line.split(" ") for line in short.read_text().splitlines()]
    path = write(short.with_name("token.dat"), cell(1, column, token)(lines))
    is_right = re.fullmatch(r"-?\d+|NaN", token)
    if column in CHANNEL_COLUMNS and is_right:
        (value,) = read_recording(path).frames[1, [CHANNEL_COLUMNS.index(column)]]
        assert str(value + 0.0) == str(float(token) + 0.0)  # that zero has no sign here
    elif not is_right:
        with pytest.raises(UserError, match=r"^[^\n]*token\.dat, line 2"):
            read_recording(path)


def test_the_clock_of_a_published_file_is_taken_as_it_is(text: list[list[str]], tmp_path: Path) -> None:
    path = write(tmp_path / "x.dat", cell(70, 0, "1")([list(tokens) for tokens in text]))
    assert len(read_recording(path, published=True).frames) == ROWS
    with pytest.raises(UserError, match=r"line 41, column 250 \(ML_Both_Arms\)"):
        read_recording(write(path, cell(40, 249, "1")([list(tokens) for tokens in text])), published=True)


@pytest.mark.parametrize("content", [b"", b"\n", b"\x00\xff" * 999, b"PK\x03\x04" + bytes(999), b"\xff\xfe0\x00 \x00"])
def test_a_file_that_is_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.dat, line 1: .*make data-opportunity$"):
        read_recording(tmp_path / "x.dat")


def test_a_file_cut_anywhere_in_its_last_line(text: list[list[str]], tmp_path: Path) -> None:
    last = " ".join(text[-1])
    for cut in [1, 2, 5, *range(20, len(last) - 9, 97), *range(len(last) - 9, len(last))]:
        path = write(tmp_path / "x.dat", [*text[:-1], [last[:cut]]], end="")
        with pytest.raises(UserError, match=rf"line {ROWS}: cut short after \d+ of 250 columns; get the file again"):
            read_recording(path)


# --- the dataset against the released pipeline, spelled out


def released_pipeline(folder: Path, runs: tuple[str, ...], trailing_nan: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples (T, 113) and codes (T, 2) before scaling, with np.loadtxt and pandas, run by run."""
    values, codes = [], []
    for run in runs:
        table = np.loadtxt(folder / f"{run}.dat")
        frame = pd.DataFrame(table[:, list(CHANNEL_COLUMNS)])
        if trailing_nan == "zero":
            after = frame[::-1].notna().cummax()[::-1]
            frame = frame.where(after, 0.0)
        values.append(frame.interpolate().fillna(0).to_numpy())
        codes.append(table[:, [243, 249]])
    return np.concatenate(values), np.concatenate(codes)


@pytest.mark.parametrize("profile", ["ordonez2016", "strc_py3_2021"])
@pytest.mark.parametrize("task", ["gestures", "locomotion"])
def test_every_window_is_that_of_the_released_pipeline(profile: str, task: str, folder: Path, tmp_path: Path) -> None:
    dataset = OpportunityDataset(folder, tmp_path / "cache", task, profile)
    data = dataset.load()
    assert data.validation is not None and data.modalities == tuple(d.name for d in DEVICES)
    trailing_nan = "repeat" if profile == "ordonez2016" else "zero"
    train, _ = released_pipeline(folder, dataset.runs()["train"], trailing_nan)
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        assert isinstance(split, WindowSplit)
        values, codes = released_pipeline(folder, dataset.runs()[name], trailing_nan)
        if profile == "ordonez2016":
            low, high = np.array([expected_threshold(column_names()[c]) for c in CHANNEL_COLUMNS]).T
            values = (values - low) / (high - low)
            values = np.where(values > 1, 0.99, np.where(values < 0, 0, values))
            assert (values == 0.99).any() and (values == 0).any()
        else:
            spread = train.std(axis=0)
            values = (values - train.mean(axis=0)) / np.where(spread == 0, 1, spread)
        step = 1 if name == "test" and profile != "ordonez2016" else 12
        starts = range(0, len(values) - 23, step)
        table, column = (GESTURES, 1) if task == "gestures" else (LOCOMOTION, 0)
        assert split.target.tolist() == [table.index(int(codes[s + 23, column])) for s in starts]
        assert split.sample_target.tolist() == [table.index(int(c)) for c in codes[:, column]]
        expected = np.stack([values[s : s + 24] for s in starts])
        got = torch.cat(split.rows(torch.arange(len(split))), dim=2)
        assert got.shape == (len(starts), 24, 113) and got.dtype == torch.float32
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
        first = 0
        for (run, start, rows), wanted in zip(split.recordings, dataset.runs()[name], strict=True):
            assert (run, start, rows) == (wanted, first, len(np.loadtxt(folder / f"{run}.dat", usecols=0)))
            first += rows
        assert first == len(split.sample_target) == len(split.inputs[0])


def test_rows_are_any_windows_of_any_modalities_and_move_together(folder: Path) -> None:
    whole = OpportunityDataset(folder).load()
    some = OpportunityDataset(folder, modalities=["shoe_right", "acc_hip"]).load()
    assert some.feature_shapes == ((24, 16), (24, 3)) and some.modalities == ("shoe_right", "acc_hip")
    assert whole.feature_shapes == tuple((24, d.width) for d in DEVICES)
    index = torch.tensor([7, 0, 7, len(whole.test) - 1])
    everything = whole.test.rows(index)
    for got, wanted in zip(some.test.rows(index), (everything[18], everything[1]), strict=True):
        assert torch.equal(got, wanted)
    for part, rows in ((slice(2, 9, 3), torch.tensor([2, 5, 8])), (slice(None), torch.arange(len(some.test)))):
        assert all(torch.equal(a, b) for a, b in zip(some.test.rows(part), some.test.rows(rows), strict=True))
    moved = some.test.to(torch.device("meta"))  # a tensor left behind could not be indexed with one that moved
    assert [x.device.type for x in moved.rows(index.to("meta"))] == ["meta", "meta"]
    assert moved.target.device.type == moved.sample_target.device.type == "meta" and len(moved) == len(some.test)


def test_options_of_windows_and_no_validation(folder: Path, tmp_path: Path) -> None:
    options = {"path": folder, "cache_dir": tmp_path, "validation_runs": []}
    data = OpportunityDataset(**options, window=30, step=7, test_step=11).load()  # type: ignore[arg-type]
    assert data.validation is None and data.feature_shapes[0] == (30, 3)
    for split, step in ((data.train, 7), (data.test, 11)):
        assert isinstance(split, WindowSplit)
        assert len(split) == (len(split.sample_target) - 30) // step + 1
        assert split.target.tolist() == split.sample_target[29::step].tolist()
        spread = sample_wise(split.target.numpy(), len(split.sample_target), split.window, split.step)
        assert spread[29::step].tolist() == split.target.tolist() and len(spread) == len(split.sample_target)


@pytest.mark.parametrize("step", [12, 5, 1])
def test_what_a_split_of_windows_says_of_itself(folder: Path, step: int) -> None:
    split = OpportunityDataset(folder, test_step=step).load().test
    assert isinstance(split, WindowSplit)
    said = split.description()
    assert said == json.loads(json.dumps(said))
    assert said["seconds_per_prediction"] == step / 30
    ends = (split.starts + split.window - 1).tolist()
    wanted = [[run, sum(first <= end < first + rows for end in ends)] for run, first, rows in split.recordings]
    assert said["recordings"] == wanted and sum(number for _, number in wanted) == len(split)
    for end, name in zip(ends, split.ids().tolist(), strict=True):
        assert name in {f"{run}/{end - first}" for run, first, rows in split.recordings if first <= end < first + rows}
    fused = np.random.default_rng(0).random((len(split), 18))
    target, probabilities = split.rescored(fused)["samples"]
    np.testing.assert_array_equal(target, split.sample_target)
    np.testing.assert_array_equal(probabilities, sample_wise(fused, len(target), split.window, split.step))
    (batch,) = split.batches(torch.tensor([3, 0]), None, torch.device("cpu"))
    assert batch.target.tolist() == split.target[[3, 0]].tolist()
    assert all(map(torch.equal, batch.inputs, split.rows(torch.tensor([3, 0]))))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"task": "gesture"}, "dataset.task=gesture: must be one of locomotion, gestures"),
        ({"profile": "b"}, "dataset.profile=b: must be one of ordonez2016, strc_py3_2021"),
        ({"scaling": "minmax"}, "dataset.scaling=minmax: must be one of thresholds, zscore"),
        ({"trailing_nan": "drop"}, "dataset.trailing_nan=drop: must be one of repeat, zero"),
        ({"window": 0}, "dataset.window=0: must be"),
        ({"step": 2.5}, "dataset.step=2.5: must be"),
        ({"test_step": 0}, "dataset.test_step=0: must be"),
        ({"modalities": []}, r"dataset.modalities=\[\]: choose from acc_rkn_upper"),
        ({"modalities": ["acc_hip", "acc_hip"]}, "dataset.modalities=.*: choose from .* each once"),
        ({"validation_runs": ["S2-ADL4"]}, "dataset.validation_runs=.*: choose from S1-Drill"),
        ({"validation_runs": list(RUNS[:14])}, "dataset.validation_runs: names every training run"),
        ({"window": 10_000}, "dataset.window=10000: longer than the .* samples of the train runs"),
        ({"generated": False}, "holds generated data .* dataset.generated=true"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, object], wrong: str, folder: Path) -> None:
    with pytest.raises(UserError, match=wrong) as error:
        OpportunityDataset(folder, **options).load()  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_config_names_every_option_with_its_default() -> None:
    config = yaml.safe_load((ROOT / "conf/dataset/opportunity.yaml").read_text())["dataset"]
    assert config.pop("_target_") == "multimodal_loss.datasets.OpportunityDataset"
    parameters = inspect.signature(OpportunityDataset).parameters
    assert set(config) == set(parameters)
    # Only `generated` differs: a run that is configured for real data must not begin on generated ones.
    defaults = {k: p.default for k, p in parameters.items() if k not in ("path", "cache_dir", "generated")}
    assert {key: config[key] for key in defaults} == defaults and config["generated"] is False


# --- files that are the published ones, or are not


def test_generated_data_say_so_and_others_must_be_the_published_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = OpportunityDataset(folder, generated=True)
    assert made.generated
    assert made.load().fingerprint.startswith("generated-")

    real = tmp_path / "real"
    real.mkdir()
    for run in RUNS:
        (real / f"{run}.dat").symlink_to(folder / f"{run}.dat")
    with pytest.raises(UserError, match=r"does not hold generated data .* dataset.generated=false"):
        OpportunityDataset(real, generated=True).require_files()
    with pytest.raises(UserError, match=r"S1-Drill.dat: not the published file .* get it again: make data-opportunity"):
        OpportunityDataset(real).load()
    digests = dict(zip(RUNS, sha256_of([real / f"{run}.dat" for run in RUNS], None), strict=True))
    monkeypatch.setattr(opportunity_channels, "manifest", lambda: {run: PublishedFile(1, digests[run]) for run in RUNS})
    dataset = OpportunityDataset(real)
    assert not dataset.generated
    assert not dataset.load().fingerprint.startswith("generated")

    # Of a file that is not the published one, the line that is wrong says more than the checksum.
    broken = (real / "S3-ADL1.dat").read_text().splitlines()
    (real / "S3-ADL1.dat").unlink()
    (real / "S3-ADL1.dat").write_text("\n".join([*broken[:4], "0 1", *broken[4:]]))
    with pytest.raises(UserError, match=r"S3-ADL1.dat, line 5: 2 columns"):
        OpportunityDataset(real).load()


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    def missing(path: Path, generated: bool | None = None) -> str:
        with pytest.raises(MissingData) as error:
            OpportunityDataset(path, generated=generated).require_files()
        with pytest.raises(MissingData, match=re.escape(str(error.value))):
            OpportunityDataset(path, generated=generated).load()
        return str(error.value)

    assert missing(tmp_path / "nowhere", generated=True) == f"{tmp_path / 'nowhere'} does not exist"
    assert missing(tmp_path) == f"{tmp_path}: 18 of 18 files are not there, the first is S1-Drill.dat"
    for run in RUNS[:-1]:
        (tmp_path / f"{run}.dat").symlink_to(folder / f"{run}.dat")
    assert missing(tmp_path, generated=True) == f"{tmp_path}: 1 of 18 files are not there, the first is S3-ADL5.dat"


def test_the_fingerprint_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    before = OpportunityDataset(folder).fingerprint()
    others = {
        "task": "locomotion",
        "profile": "strc_py3_2021",
        "modalities": ["acc_rh"],
        "cache_dir": tmp_path / "cache",
    }
    assert before == OpportunityDataset(tmp_path / "copy", **others).fingerprint()  # type: ignore[arg-type]
    assert before.startswith("generated-")
    with (tmp_path / "copy/S2-ADL4.dat").open("ab") as file:
        file.write(b" ")
    assert before != OpportunityDataset(tmp_path / "copy", **others).fingerprint()  # type: ignore[arg-type]


# --- the cache


def test_the_cache_is_read_once_and_never_stale(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, cache = tmp_path / "files", tmp_path / "cache"
    write_like(files, size=0.001, seed=1)
    read: list[Path] = []
    original = opportunity_files.read_recording

    def counted(path: Path, published: bool) -> opportunity_files.Recording:
        read.append(path)
        return original(path, published)

    monkeypatch.setattr(opportunity_files, "read_recording", counted)
    first = OpportunityDataset(files, cache).load()
    assert len(read) == 18
    hashed: list[str] = []
    monkeypatch.setattr(cache_files, "sha256", hashed.append)
    for options in ({}, {"task": "locomotion"}, {"window": 12, "modalities": ["acc_hip"]}):
        again = OpportunityDataset(files, cache, **options).load()  # type: ignore[arg-type]
        assert torch.equal(again.train.inputs[0], first.train.inputs[0]) and len(read) == 18 and not hashed
        assert (again.fingerprint == first.fingerprint) == (not options)
    monkeypatch.undo()
    # Nobody writes into the cache through the tensors.
    first.train.inputs[0].fill_(7.0)
    assert not (OpportunityDataset(files, cache).load().train.inputs[0] == 7).all()
    assert OpportunityDataset(files).load().fingerprint == OpportunityDataset(files, cache).load().fingerprint

    others = [{"scaling": "zscore"}, {"trailing_nan": "zero"}, {"validation_runs": ["S1-ADL5"]}]
    prints = {OpportunityDataset(files, cache, **o).load().fingerprint for o in others}  # type: ignore[arg-type]
    assert len(prints | {first.fingerprint}) == 4

    lines = (files / "S3-ADL5.dat").read_text().splitlines()
    tokens = lines[60].split(" ")
    tokens[37] = str(int(tokens[37]) // 2 - 7)
    lines[60] = " ".join(tokens)
    (files / "S3-ADL5.dat").write_text("\n".join(lines) + "\n")
    changed = OpportunityDataset(files, cache).load()
    assert changed.fingerprint != first.fingerprint
    assert not torch.equal(changed.test.inputs[0], first.test.inputs[0])


def test_a_damaged_or_unwritable_cache_is_one_line(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    OpportunityDataset(folder, cache).load()
    (prepared,) = cache.glob("opportunity-*/")
    assert not list(cache.glob(".*"))  # nothing temporary is left
    for name in ("train.npy", "test-labels.npy", "content.json"):
        whole = (prepared / name).read_bytes()
        for damaged in (whole[: len(whole) // 2], b""):
            (prepared / name).write_bytes(damaged)
            with pytest.raises(UserError, match=f"{prepared}: the prepared data are damaged .* delete this folder"):
                OpportunityDataset(folder, cache).load()
        (prepared / name).write_bytes(whole)
    OpportunityDataset(folder, cache).load()
    for memory in ("{", "[]", f'{{"{folder / "S1-Drill.dat"}": 5}}', f'{{"{folder / "S1-Drill.dat"}": [1, 2]}}'):
        (cache / "opportunity-files.json").write_text(memory)  # only a memory of checksums
        OpportunityDataset(folder, cache).load()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        OpportunityDataset(folder, tmp_path / "file").load()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o027, 0o750)])
def test_others_may_read_the_cache_as_the_umask_says(umask: int, mode: int, folder: Path, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        OpportunityDataset(folder, tmp_path).load()
    finally:
        os.umask(before)
    (prepared,) = tmp_path.glob("opportunity-*/")
    assert prepared.stat().st_mode & 0o777 == mode
    assert {path.stat().st_mode & 0o777 for path in prepared.iterdir()} == {mode & 0o666}


# --- the generator


def test_generated_files_have_the_format(folder: Path) -> None:
    assert sorted(path.stem for path in folder.glob("*.dat")) == sorted(RUNS)
    for path in folder.glob("*.dat"):
        content = path.read_text()
        assert content.endswith("\n") and re.fullmatch(r"(?:(?:(?:-?\d+|NaN) ){249}\d+\n)+", content)
        rows = content.count("\n")
        assert rows == max(120, round(0.003 * true_rows()[path.stem]))
        time = [int(line.split(" ", 1)[0]) for line in content.splitlines()]
        assert time[:5] == [0, 33, 67, 100, 133] and set(np.diff(time)) == {33, 34}


def test_generated_data_miss_values_and_have_null_like_the_real_ones() -> None:
    table = make_table("S3-ADL1", 20_000, seed=0).to_pandas()
    body, low, high = table.iloc[:, list(CHANNEL_COLUMNS)].to_numpy(dtype=float), *thresholds()
    gone = np.isnan(body)
    for device in DEVICES:
        first, end = channel_range(device)
        assert (gone[:, first:end] == gone[:, [first]]).all()  # all axes vanish together
        share = gone[300:-300, first].mean()
        assert share == 1 if device.name == "acc_rh" else 0 < share < 0.1 if device.name[:3] == "acc" else share == 0
    inside = gone[300:-300, 0]  # one wireless device: bursts of 20 to 54 samples, which may touch
    lengths = [len(list(run)) for missing, run in itertools.groupby(inside) if missing]
    assert len(lengths) > 3 and min(lengths[1:-1]) >= 20 and np.median(lengths) <= 80
    assert gone[:300].all() and gone[-300:].all() and not table.iloc[:300, 243:].to_numpy().any()
    share = ((body > high) | (body < low)).mean()
    assert 1e-5 < share < 1e-2
    locomotion, gestures = table["243"], table["249"]
    assert set(locomotion) == set(LOCOMOTION) and set(gestures) == set(GESTURES)
    assert 0.80 < (gestures == 0).mean() < 0.86 and 0.15 < (locomotion == 0).mean() < 0.28


def test_the_generator_repeats_itself_and_spares_real_files(folder: Path, tmp_path: Path) -> None:
    write_like(tmp_path / "a", size=0.003)
    for path in folder.iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()
    assert not make_table("S1-ADL1", 120, 0).equals(make_table("S1-ADL1", 120, 1))
    assert not make_table("S1-ADL1", 120, 0).equals(make_table("S1-ADL2", 120, 0))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "S1-Drill.dat").write_text("real")
    with pytest.raises(UserError, match="were not generated"):
        write_like(tmp_path / "real", size=0.001)
    assert (tmp_path / "real" / "S1-Drill.dat").read_text() == "real"
    assert not (tmp_path / "real" / GENERATED_MARKER).exists()


def test_a_finished_folder_is_left_alone_and_any_other_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def made_again(size: float = 0.001, seed: int = 0) -> bool:
        old = state()
        write_like(tmp_path, size, seed)
        new = state()
        assert set(new) == {GENERATED_MARKER, *(f"{run}.dat" for run in RUNS)}
        assert new == old or all(new[name] != time for name, time in old.items())
        return new != old

    assert made_again() and not made_again()
    content = (tmp_path / "S1-Drill.dat").read_bytes()
    assert made_again(seed=1) and not made_again(seed=1)
    assert made_again(0.002, 1) and made_again(0.0020000001, 1) and not made_again(0.0020000001, 1)
    (tmp_path / "S2-ADL5.dat").unlink()
    assert made_again(0.0020000001, 1)

    # One that was interrupted is known as generated, and is not taken for finished.
    def interrupted(run: str, rows: int, seed: int) -> None:
        if run == "S2-Drill":
            raise KeyboardInterrupt
        return make_table(run, rows, seed)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(make_opportunity_like, "make_table", interrupted)
        write_like(tmp_path, 0.001)
    assert OpportunityDataset(tmp_path).generated and (tmp_path / "S1-Drill.dat").read_bytes() == content
    assert made_again() and not made_again()
    monkeypatch.setattr(make_opportunity_like, "GENERATOR_VERSION", -1)
    assert made_again()


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--size", "0"], "--size=0.0: must be a number above 0"),
        (["--size", "nan"], "--size=NaN: must be a number above 0"),
        (["--size", "inf"], "--size=Infinity: must be a number above 0"),
        (["--seed", "-1"], "--seed=-1: must be a whole number of at least 0"),
        (["--folder", "file"], "file: File exists"),
        (["--folder", "file/below"], "Not a directory"),
    ],
)
def test_the_generator_refuses_in_one_line(
    arguments: list[str],
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["make_opportunity_like.py", "--folder", "new", "--size", "0.001", *arguments])
    assert make_opportunity_like.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and wrong in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_can_learn_from_generated_data(tmp_path: Path) -> None:
    write_like(tmp_path, size=0.02)
    data = OpportunityDataset(tmp_path, task="locomotion").load()

    def features(split: Split) -> np.ndarray:
        return np.concatenate([x.mean(1).numpy() for x in split.rows(slice(None))], axis=1)

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(
        features(data.train), data.train.target
    )
    score = f1_score(data.test.target, model.predict(features(data.test)), average="macro")
    shuffled = data.train.target[torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))]
    chance = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(features(data.train), shuffled)
    assert score > 0.6 > 2 * f1_score(data.test.target, chance.predict(features(data.test)), average="macro")
