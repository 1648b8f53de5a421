"""Write made-up recordings in exactly the format of OPPORTUNITY's 18 .dat files, for tests and benchmarks.

    python scripts/make_opportunity_like.py                      # true size: 676,713 rows, 0.8 GB, about a minute
    python scripts/make_opportunity_like.py --size 0.05

Train on them with dataset=opportunity_like, and dataset.path=FOLDER after another --folder. The folder gets a file
GENERATED, by which the dataset knows them; what is computed from them says so and is no result of the paper. A folder
that holds just what is asked for is left alone, so that runs on it stay newer than their data.

A model can learn from them: each class shifts and shakes the channels by a template of its own, strongly on some
devices and not at all on others, and is the same for all subjects. As in the real files, about 83 % of the gesture and
21 % of the locomotion labels are Null; wireless accelerometers lose all three axes in bursts; the right-hand one is
missing altogether in the recordings of subject 3; recordings begin and end without values or labels; and some values
lie beyond the scaling thresholds. Columns that the paper does not use hold noise.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from multimodal_loss.command import run_script
from multimodal_loss.datasets.opportunity import GENERATED_MARKER
from multimodal_loss.datasets.opportunity_channels import (
    CHANNEL_COLUMNS,
    DEVICES,
    LABEL_TRACKS,
    NUM_CHANNELS,
    NUM_COLUMNS,
    RUNS,
    SAMPLES_PER_SECOND,
    TEST_RUNS,
    channel_range,
    label_track,
    manifest,
    thresholds,
)
from multimodal_loss.errors import UserError, require_number

Integers = NDArray[np.int64]
Reals = NDArray[np.float32]
Mask = NDArray[np.bool_]

S1_ROWS = {"Drill": 54_966, "ADL1": 51_116, "ADL2": 32_224, "ADL3": 33_273, "ADL4": 32_955, "ADL5": 30_127}
# Of the other recordings only these sums are known.
GROUP_ROWS = {
    ("S2-Drill", "S2-ADL1", "S2-ADL2", "S3-Drill", "S3-ADL1", "S3-ADL2"): 262_353,
    ("S2-ADL3", "S3-ADL3"): 60_949,
    TEST_RUNS: 118_750,
}
# Bumped when the same options would give other numbers, so that old files are made again.
GENERATOR_VERSION = 1
MIN_ROWS = 120  # room for a head, a tail, bursts and some segments of labels
# Share of Null and the shortest and longest segment, in samples, of a label track that is not listed: gestures.
NULL_SHARES = {"Locomotion": (0.21, 60, 300), "HL_Activity": (0.1, 300, 3_000)}
GESTURE_SHARE = (0.83, 24, 60)
# In half widths of a channel's thresholds. A drift, new every second, is what no average over a window removes.
SIGNAL, NOISE, DRIFT = 0.25, 0.12, 0.3


def true_rows() -> dict[str, int]:
    """Rows of each recording, 676,713 in all; inside a group of which only the sum is known, in proportion to bytes."""
    rows = {f"S1-{name}": number for name, number in S1_ROWS.items()}
    for runs, total in GROUP_ROWS.items():
        share = np.cumsum([0, *(manifest()[run].size for run in runs)])
        ends = np.rint(share / share[-1] * total).astype(int)
        rows |= dict(zip(runs, np.diff(ends).tolist(), strict=True))
    return {run: rows[run] for run in RUNS}


def class_sequence(rng: np.random.Generator, rows: int, classes: int, null: float, low: int, high: int) -> Integers:
    """Class indices (rows,): segments of low to high samples, every class in turn in random order, Null (0) between."""
    number = rows // low + 2
    turns = [1 + rng.permutation(classes - 1) for _ in range(number // (classes - 1) + 1)]
    lengths = rng.integers(low, high + 1, number)
    pauses = np.rint(np.mean([low, high]) * null / (1 - null) * rng.uniform(0.5, 1.5, number)).astype(int)
    pauses[0] //= 2  # a short recording is not all Null
    sequence = np.stack([np.zeros(number, dtype=np.int64), np.concatenate(turns)[:number]], axis=1)
    return np.repeat(sequence.ravel(), np.stack([pauses, lengths], axis=1).ravel())[:rows]


def templates(rng: np.random.Generator, classes: int) -> Reals:
    """What a class does to each channel, (classes, 113); Null does nothing. Some devices hardly see some classes."""
    shift = rng.standard_normal((classes, NUM_CHANNELS))
    for device in DEVICES:
        first, end = channel_range(device)
        shift[:, first:end] *= rng.random((classes, 1)) ** 2
    shift[0] = 0.0
    return shift.astype(np.float32)


def channels(rng: np.random.Generator, locomotion: Integers, gestures: Integers, seed: int) -> Reals:
    """Values (rows, 113) in the units of the file; the templates depend on the seed alone."""
    shared = np.random.default_rng([seed, len(RUNS)])
    posture, shift, shake = (templates(shared, n) for n in (5, 18, 18))
    phase = np.sin(2 * np.pi * 2.5 / SAMPLES_PER_SECOND * np.arange(len(gestures), dtype=np.float32))
    values = posture[locomotion] + shift[gestures]
    values += shake[gestures] * phase[:, None]
    values *= SIGNAL
    values += NOISE * rng.standard_normal(values.shape, dtype=np.float32)
    drift = rng.standard_normal((len(values) // SAMPLES_PER_SECOND + 1, NUM_CHANNELS), dtype=np.float32)
    values += DRIFT * np.repeat(drift, SAMPLES_PER_SECOND, axis=0)[: len(values)]
    beyond = rng.random(values.shape, dtype=np.float32) < 2e-4
    values[beyond] = rng.choice([-1.8, 1.8], int(beyond.sum()))
    low, high = thresholds()
    return (values * ((high - low) / 2) + (high + low) / 2).astype(np.float32)


def missing(rng: np.random.Generator, run: str, rows: int, head: int) -> Mask:
    """Where each of the 19 devices gives no values, (rows, 19)."""
    mask = np.zeros((rows, len(DEVICES)), dtype=bool)
    for number, device in enumerate(DEVICES):
        if device.name.startswith("acc"):  # wireless
            bursts = int(np.ceil(rng.uniform(0.01, 0.06) * rows / 37))
            starts, lengths = rng.integers(0, rows, bursts), rng.integers(20, 55, bursts)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                mask[start : start + length, number] = True
        if device.name == "acc_rh" and run.startswith("S3"):
            mask[:, number] = True
    mask[:head] = mask[rows - head :] = True
    return mask


def make_table(run: str, rows: int, seed: int) -> pa.Table:
    """One recording: 250 integer columns with nulls."""
    rng = np.random.default_rng([seed, RUNS.index(run)])
    head = min(300, rows // 50)
    classes: list[Integers] = []
    for track in LABEL_TRACKS:
        null, low, high = NULL_SHARES.get(track, GESTURE_SHARE)
        track_classes = class_sequence(rng, rows, len(label_track(track)[0]), null, low, high)
        track_classes[:head] = track_classes[rows - head :] = 0
        classes.append(track_classes)
    body = np.rint(channels(rng, classes[0], classes[-1], seed)).astype(np.int32)
    mask = missing(rng, run, rows, head)
    columns: list[pa.Array] = [pa.array(np.rint(np.arange(rows) * 1000 / SAMPLES_PER_SECOND).astype(np.int32))]
    columns += [pa.array(noise) for noise in rng.integers(-2_000, 2_000, (NUM_COLUMNS - 8, rows), dtype=np.int32)]
    owners = np.repeat(np.arange(len(DEVICES)), [d.width for d in DEVICES])
    for channel, column in enumerate(CHANNEL_COLUMNS):
        columns[column] = pa.array(body[:, channel], mask=mask[:, owners[channel]])
    for track, track_classes in zip(LABEL_TRACKS, classes, strict=True):
        columns.append(pa.array(np.array(label_track(track)[0], dtype=np.int32)[track_classes]))
    return pa.table(columns, names=[str(i) for i in range(NUM_COLUMNS)])


def write_like(folder: Path, size: float = 1.0, seed: int = 0) -> None:
    """Write 18 recordings of `size` times the true number of rows; leaves alone a folder that has them already.

    Raises UserError for bad numbers and where real files lie, OSError for a folder that cannot be written.
    """
    require_number("--size", size, positive=True)
    require_number("--seed", seed, integer=True)
    marker = folder / GENERATED_MARKER
    if not marker.exists() and any(folder.glob("*.dat")):
        raise UserError(f"{folder}: holds .dat files that were not generated; give another --folder")
    command = f"scripts/make_opportunity_like.py --size {float(size)} --seed {seed}"
    finished = f"Made by {command} (version {GENERATOR_VERSION}): not OPPORTUNITY.\n"
    if marker.exists() and marker.read_text() == finished and all((folder / f"{run}.dat").exists() for run in RUNS):
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The files are marked as generated from the first on, and as complete after the last.
    marker.write_text(f"Being made by {command}: not OPPORTUNITY, and not complete.\n")
    options = csv.WriteOptions(include_header=False, delimiter=" ", null_string="NaN", quoting_style="none")
    for run, rows in true_rows().items():
        temporary = folder / f".{run}-{os.getpid()}"
        csv.write_csv(make_table(run, max(MIN_ROWS, round(rows * size)), seed), temporary, options)
        temporary.replace(folder / f"{run}.dat")
    marker.write_text(finished)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/opportunity-like"))
    parser.add_argument("--size", type=float, default=1.0, help="times the true number of rows")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    code = run_script(arguments.folder, lambda: write_like(arguments.folder, arguments.size, arguments.seed))
    if not code:
        print(arguments.folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
