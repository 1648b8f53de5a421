"""Reading OPPORTUNITY's .dat files: a sample a line, 250 columns with one space between.

Each is a whole number, or `NaN` where a value is missing.
"""

import codecs
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from multimodal_loss.datasets import opportunity_channels as uci
from multimodal_loss.errors import UserError

Array = NDArray[np.float32]

WORKERS = min(2, os.cpu_count() or 1)
_READ_COLUMNS = (uci.TIME_COLUMN, *uci.CHANNEL_COLUMNS, *(column for column, _ in uci.TASKS.values()))
_LONE_CR = re.compile(rb"\r(?!\n)")
_INTEGER = re.compile(rb"-?\d{1,10}")
_OTHER_RELEASE = "the files of UCI dataset 226 are needed, not the 2011 challenge's: make data-opportunity"


@dataclass(frozen=True)
class Recording:
    """`frames` (T, 113) float64 in the file's units, NaN where missing; `labels` (T, 2) uint8, classes of the tasks."""

    frames: NDArray[np.float64]
    labels: NDArray[np.uint8]


def read_recording(path: Path, published: bool = False) -> Recording:
    """Raises UserError that names file and line for anything that is not a recording of the full release.

    A permutation of channels that leaves time and labels in place cannot be seen here: only the checksum tells. Of a
    file that has the `published` checksum, the clock is therefore not questioned.
    """
    try:
        table = _read_table(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        raise UserError(_diagnosis(path, str(error))) from error
    frames = np.empty((table.num_rows, uci.NUM_CHANNELS), order="F")
    for channel, column in enumerate(uci.CHANNEL_COLUMNS):
        frames[:, channel] = _values(table, column)
    if not published:
        _check_time(path, _values(table, uci.TIME_COLUMN))
    labels = [_classes(path, _values(table, column), column, track) for column, track in uci.TASKS.values()]
    return Recording(frames, np.stack(labels, axis=1))


def _read_table(path: Path) -> pa.Table:
    content = path.read_bytes()
    if _is_odd(content):
        raise pa.ArrowInvalid("bytes that no recording holds")
    names = [str(column) for column in _READ_COLUMNS]
    return csv.read_csv(
        pa.BufferReader(content),
        csv.ReadOptions(column_names=[str(column) for column in range(uci.NUM_COLUMNS)]),
        csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=False),
        csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.int32()), null_values=["NaN"]),
    )


def _values(table: pa.Table, column: int) -> NDArray[np.float64]:
    """(T,) numbers of a column, NaN where missing."""
    values: NDArray[np.float64] = table[str(column)].to_numpy().astype(np.float64, copy=False)
    return values


def _is_odd(text: bytes) -> bool:
    """Whether Arrow could take what no recording holds: tabs around a number, 0x1F, CR alone as an end, a BOM."""
    # Byte by byte: where none is there, a search for a set takes twenty times longer.
    has_any = any(byte in text for byte in (b"\t", b"x", b"X"))
    return has_any or _LONE_CR.search(text) is not None or text.startswith(codecs.BOM_UTF8)


def _place(path: Path, row: int, column: int) -> str:
    return f"{path}, line {row + 1}, column {column + 1} ({uci.column_names()[column]})"


def _check_time(path: Path, time: NDArray[np.float64]) -> None:
    """The first column must look like time: from about 0, never back, a thirtieth of a second a sample."""
    cause = f"this is not time in ms, so the columns are shuffled; {_OTHER_RELEASE}"
    bad = np.isnan(time)
    bad[0] |= not 0 <= time[0] <= 1000
    bad[1:] |= np.diff(time) < 0
    if bad.any():
        row = int(bad.argmax())
        raise UserError(f"{_place(path, row, uci.TIME_COLUMN)}: {time[row]:g} after {time[max(row - 1, 0)]:g}: {cause}")
    step = float(np.median(np.diff(time))) if len(time) > 1 else 1000 / uci.SAMPLES_PER_SECOND
    if not 33 <= step <= 34:
        raise UserError(f"{_place(path, 1, uci.TIME_COLUMN)}: steps of {step:g} where 33 or 34 are expected: {cause}")


def _classes(path: Path, codes: NDArray[np.float64], column: int, track: str) -> NDArray[np.uint8]:
    classes = pd.Index(uci.label_track(track)[0], dtype="float64").get_indexer(pd.Index(codes))
    if (classes < 0).any():
        row = int((classes < 0).argmax())
        cause = f"the columns are shuffled, the line is cut short, or the release is another; {_OTHER_RELEASE}"
        raise UserError(f"{_place(path, row, column)}: {codes[row]:.0f} is no code of label_legend.txt: {cause}")
    return classes.astype(np.uint8)


def _diagnosis(path: Path, error: str) -> str:
    """Why the fast reader refused a file: it knows no line numbers, so the lines are gone through one by one."""
    again = "get the file again: make data-opportunity"
    if path.stat().st_size == 0:
        return f"{path}, line 1: the file is empty; {again}"
    with path.open("rb") as lines:
        for row, line in enumerate(lines):
            tokens = line.removesuffix(b"\n").removesuffix(b"\r").split(b" ")
            is_cut = not line.endswith(b"\n")
            if is_cut and row > 0 and (len(tokens) < uci.NUM_COLUMNS or not tokens[-1]):
                return f"{path}, line {row + 1}: cut short after {len(tokens)} of {uci.NUM_COLUMNS} columns; {again}"
            if len(tokens) != uci.NUM_COLUMNS:
                return f"{path}, line {row + 1}: {len(tokens)} columns where {uci.NUM_COLUMNS} belong; {_OTHER_RELEASE}"
            for column in _READ_COLUMNS:
                if not _is_number(tokens[column]):
                    text = tokens[column][:40].decode("ascii", "replace")
                    return f"{_place(path, row, column)}: {text!r} is neither NaN nor a whole number (int32); {again}"
            if _is_odd(line):  # in a column that is not used
                return f"{path}, line {row + 1}: a tab, an x or a carriage return that ends no line; {again}"
    return f"{path}: {' '.join(error.split())}; {again}"


def _is_number(token: bytes) -> bool:
    return token == b"NaN" or (_INTEGER.fullmatch(token) is not None and -(2**31) <= int(token) < 2**31)


def interpolate(frames: NDArray[np.float64], trailing_nan: str) -> None:
    """Fill the gaps of one recording (T, C) in place, channel by channel.

    Inside, linearly between the neighbours; before the first value 0 in the file's units; after the last value that
    value (`trailing_nan` "repeat": pandas' default in the released code) or 0 ("zero"). A channel without values is 0.
    """
    for channel in frames.T:
        missing = np.isnan(channel)
        if missing.all():
            channel[:] = 0.0
        elif missing.any():
            gaps, known = np.flatnonzero(missing), np.flatnonzero(~missing)
            right = 0.0 if trailing_nan == "zero" else None
            channel[gaps] = np.interp(gaps, known, channel[known], left=0.0, right=right)


def to_unit_range(frames: NDArray[np.float64]) -> None:
    """Scale (T, 113) in place by the fixed thresholds; beyond them 0 and, as in the released code, 0.99."""
    low, high = uci.thresholds()
    frames -= low
    frames /= high - low
    frames[frames > 1] = 0.99
    frames[frames < 0] = 0.0
