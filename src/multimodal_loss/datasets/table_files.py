"""The files of a tables folder (tables.py): modalities from CSV or Parquet, labels.csv, and what is wrong with them."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from multimodal_loss.errors import CONTROL, MissingData, UserError, say

Array = NDArray[np.float32]

LABELS = "labels.csv"
SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".parquet")
NOTES = (".json", ".md")  # beside the tables, for people
# Bytes in memory at a time, of a file and of float64 copies of rows: small beside the table, large beside a row.
BLOCK_BYTES = 32 * 2**20
# Arrow spends about 6 us and 3 kB on a column of a block of CSV, however few its rows: wide files take larger blocks.
COLUMN_BYTES = 320
# Where Arrow, on one thread, says that its text is wrong; rows are counted from 1, the header included.
BAD_CELL = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)
BAD_UTF8 = re.compile(r"In CSV column #\d+: Row #(\d+): .*invalid UTF8", re.DOTALL)
BAD_WIDTH = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


@dataclass(frozen=True)
class Table:
    """One modality: `values` (rows, features), NaN where a cell is missing; `rows` finds a row by its id."""

    path: Path
    features: tuple[str, ...]
    rows: dict[str, int]
    values: Array


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` whose float64 copies, `width` values each, take BLOCK_BYTES."""
    step = max(1, BLOCK_BYTES // (8 * width))
    return (slice(start, start + step) for start in range(0, rows, step))


def modality_files(folder: Path, labelled: bool = True) -> dict[str, Path]:
    """The files of the modalities by name, sorted. Raises MissingData unless there are two or more, and labels.csv;
    where they need not be `labelled`, one will do.
    """
    if not folder.is_dir():
        raise MissingData(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}")
    files: dict[str, Path] = {}
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "." and p.suffix.lower() not in NOTES)
    unread = [path.name for path in paths if path.suffix.lower() not in SUFFIXES]
    for path in (p for p in paths if p.name not in unread):
        if path.stem in files:
            raise UserError(f"{folder}: {files[path.stem].name} and {path.name} are one modality; remove one of them")
        files[path.stem] = path
    labels = files.pop("labels", None)
    if labelled and (labels is None or labels.name != LABELS):
        raise MissingData(f"{folder}: no {LABELS} (columns id and label, optionally fold, split and group)")
    if len(files) < 1 + labelled:
        found = f"only one modality, {next(iter(files.values())).name}" if files else "no modality"
        wanted = "two or more, each" if labelled else "each"
        raise MissingData(f"{folder}: {found}; give {wanted} as <modality>.csv or <modality>.parquet")
    if unread:
        warn(f"{folder}: {counted(unread, 'file')} not read: a modality is a .csv or .parquet file")
    return dict(sorted(files.items()))


def matched(
    folder: Path,
    ids: Sequence[str],
    reference: str,
    rows_of: Mapping[Path, Mapping[str, int]],
    drop: bool,
    cure: str = "",
) -> list[bool]:
    """Which of the ids, those of the file `reference`, are in every file. UserError: some are not, unless these are to
    be dropped, with a warning; or none is.
    """
    complaints, known = [], set(ids)
    for path, rows in rows_of.items():
        absent = [i for i in ids if i not in rows]
        others = [i for i in rows if i not in known]
        if absent:
            if path.is_file() and _is_csv(path) and (first := _column_names(path)[0]) in absent:
                raise UserError(f"{path}: its first line is a sample ({quoted(first)}); give the columns names there")
            complaints.append(f"{path} lacks {counted(absent, 'id')} of {reference}")
        if others:
            complaints.append(f"{path} has {counted(others, 'id')} that {reference} lacks")
    if complaints and not drop:
        raise UserError(f"{'; '.join(complaints)}; mend the files{cure}")
    kept = [all(i in rows for rows in rows_of.values()) for i in ids]
    if not any(kept):
        raise UserError(f"{folder}: no id is in every file; {'; '.join(complaints)}")
    if complaints:
        warn(f"{'; '.join(complaints)}; {sum(kept)} of {len(ids)} samples are left")
    return kept


# --- labels.csv


def read_labels(path: Path, with_split: bool = True) -> pd.DataFrame:
    """Columns id, label and, where they are there and wanted, fold (whole numbers), split and group (text).

    Raises UserError naming the line and column for whatever the description in tables.py does not allow.
    """
    names = _column_names(path)
    if "label" not in names[1:]:
        raise UserError(f"{path}: no column label; its columns are the id, label, and optionally fold, split and group")
    if unknown := [name for name in names[1:] if name not in ("label", "fold", "split", "group")]:
        raise UserError(f"{path}: unknown column {listed(unknown)}; allowed after the id: label, fold, split, group")
    wanted = names if with_split else [names[0], "label"]
    labels = pd.DataFrame(_csv_text(path, wanted, names)).rename(columns={names[0]: "id"})
    _check_ids(path, labels["id"].to_list())
    for column in ("label", "group"):
        check_cells(
            path, labels, column, _is_name, "text of 1 to 200 letters, without control characters or spaces around it"
        )
    allowed: tuple[str, ...] = SPLITS
    beside = ""
    if "fold" in labels:
        check_cells(path, labels, "fold", lambda c: c.isdecimal() and len(c) < 10, "a whole number from 0 on")
        labels["fold"] = labels["fold"].astype(int)
        present = sorted(set(labels["fold"].to_list()))
        if present != list(range(len(present))) or len(present) < 2:
            raise UserError(f"{path}: column fold has {listed(present)}; number two or more folds 0, 1, 2 and so on")
        allowed, beside = SPLITS[:2], " (beside the column fold, which says what is tested)"
    check_cells(path, labels, "split", lambda cell: cell in allowed, f"one of {', '.join(allowed)}{beside}")
    return labels


def check_cells(path: Path, labels: pd.DataFrame, column: str, allowed: Callable[[str], bool], wanted: str) -> None:
    """Raise UserError for the first cell of a column, where it is there, that is not allowed."""
    for row, cell in enumerate(labels.get(column, ())):
        if not allowed(cell):
            raise UserError(f"{where(path, row, labels['id'])}, column {column}: {quoted(cell)} is not {wanted}")


def _is_name(cell: str) -> bool:
    return bool(cell) and cell == cell.strip() and len(cell) <= 200 and not CONTROL.search(" ".join(cell.split()))


def class_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels: by value where all are finite numbers, else as text."""
    names = pd.Series(sorted(set(labels)), dtype=object)
    values = pd.to_numeric(names, errors="coerce")
    return tuple(names[values.argsort(kind="stable")] if np.isfinite(values).all() else names)


# --- tables on disk


def read_table(path: Path, impute: str | None = None, cure: str = "; mend it, or set dataset.impute=mean") -> Table:
    """One modality's file, in blocks: memory holds the table as float32 and one block.

    With `impute`, cells that are missing or infinite become NaN and are counted in a warning. Raises UserError, naming
    line and column, for a cell that is no finite number (and the `cure`), an id that is empty or there twice, and a
    file that is no table.
    """
    names = _column_names(path)
    if len(names) < 2:
        raise UserError(f"{path}: only one column; the first holds the ids, the others the features")
    ids, values = (_read_csv if _is_csv(path) else _read_parquet)(path, names)
    _check_ids(path, ids)
    settle_missing(path, ids, names[1:], values, impute, cure)
    return Table(path, tuple(names[1:]), {name: row for row, name in enumerate(ids)}, values)


def settle_missing(
    path: Path, ids: Sequence[str], features: Sequence[str], values: Array, impute: str | None, cure: str
) -> None:
    """Refuse cells that are missing or infinite, or make them NaN, as `read_table` says."""
    imputed = 0
    for part in blocks(*values.shape):
        bad = ~np.isfinite(values[part])
        if impute is None and bad.any():
            row, column = np.argwhere(bad)[0]
            row += part.start
            kind = "missing" if np.isnan(values[row, column]) else "infinite, or too large for 32 bits"
            raise UserError(f"{where(path, row, ids)}, column {quoted(features[column])}: the value is {kind}{cure}")
        values[part][bad] = np.nan
        imputed += int(bad.sum())
    if imputed:
        warn(f"{path}: {imputed} missing or infinite cells take the mean of their column in the training part")


def read_ids(path: Path) -> dict[str, int]:
    """The row of every id, without reading the features. Raises UserError as `read_table` does."""
    names = _column_names(path)
    ids = _csv_text(path, names[:1], names)[names[0]] if _is_csv(path) else _read_parquet(path, names[:1])[0]
    _check_ids(path, ids)
    return {name: row for row, name in enumerate(ids)}


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _column_names(path: Path) -> list[str]:
    """Names of the columns, the id's first. Raises UserError unless the file has rows and distinct names."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise UserError(f"{path}: the file is empty")
    names = _csv_header(path) if _is_csv(path) else _parquet_header(path)
    _check_names(path, names)
    return names


def check_table(path: Path, ids: list[str], features: list[str]) -> None:
    """Raise UserError for ids that are empty or there twice, and for two columns of one name, or none."""
    if not ids or not features:
        raise UserError(f"{path}: a table without {'columns' if ids else 'rows'}")
    _check_names(path, features)
    _check_ids(path, ids)


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = first_repeated(names)
    if twice is not None:
        raise UserError(f"{path}: two columns are called {quoted(names[twice])}; name each differently")


def _check_ids(path: Path, ids: list[str]) -> None:
    for row, name in enumerate(ids):
        if not name or not name.strip():
            raise UserError(f"{where(path, row)}: the id is empty")
    twice = first_repeated(ids)
    if twice is not None:
        first = _place(path, ids.index(ids[twice]))
        raise UserError(f"{where(path, twice)}: the id {quoted(ids[twice])} is also at {first}; keep one of them")


def first_repeated(names: Sequence[str]) -> int | None:
    """Position of the first name that an earlier one equals."""
    repeated = pd.Series(list(names), dtype=object).duplicated().to_numpy()
    return int(repeated.argmax()) if repeated.any() else None


# --- CSV


def _csv_header(path: Path) -> list[str]:
    """Names of the columns of a comma-separated UTF-8 file that has rows; a byte-order mark is left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            names = next((line for line in lines if line), [])
            has_rows = any(lines)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        raise UserError(f"{path}: columns must be separated by commas, not by semicolons or tabs")
    if not has_rows:
        raise UserError(f"{path}: no rows under the header")
    return names


def _read_csv(path: Path, names: list[str]) -> tuple[list[str], Array]:
    types = {names[0]: pa.string()} | dict.fromkeys(names[1:], pa.float32())
    values = np.empty((_count_lines(path), len(names) - 1), dtype=np.float32)  # unused pages cost no memory
    ids: list[str] = []
    for batch in _csv_batches(path, names, types):
        values[len(ids) : len(ids) + len(batch)] = batch.remove_column(0).to_tensor(null_to_nan=True).to_numpy()
        ids += batch.column(0).to_pylist()
    return ids, values[: len(ids)]


def _csv_text(path: Path, wanted: list[str], names: list[str]) -> dict[str, list[str]]:
    """Columns of text by name; `names` are all columns of the file."""
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    for batch in _csv_batches(path, names, dict.fromkeys(wanted, pa.string())):
        for name in wanted:
            columns[name] += batch.column(name).to_pylist()
    return columns


def _count_lines(path: Path) -> int:
    """No file has more rows than this: its line ends of whatever kind, and one."""
    with path.open("rb") as file:
        texts = iter(partial(file.read, BLOCK_BYTES), b"")
        return 1 + sum(t.count(b"\n") + t.count(b"\r") - t.count(b"\r\n") for t in texts)


def _csv_batches(path: Path, names: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """The columns of `types`, in blocks; `names` are all columns of the file."""
    convert = pyarrow.csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=["", "NA"],  # and NaN, a number to Arrow; its longer list costs 5 kB a column
    )
    rows = 0
    for number, text in enumerate(_text_blocks(path, max(BLOCK_BYTES, COLUMN_BYTES * len(names)))):
        read = pyarrow.csv.ReadOptions(
            use_threads=False, block_size=len(text) + 1, column_names=names if number else None
        )
        try:
            table = pyarrow.csv.read_csv(pa.BufferReader(text), read_options=read, convert_options=convert)
        except pa.ArrowException as error:
            raise _csv_error(path, names, str(error), rows + 1 if number else 0) from error
        rows += len(table)
        yield from table.to_batches()


def _text_blocks(path: Path, size: int) -> Iterator[bytes]:
    """The file in blocks of about `size` bytes, cut at line ends.

    Arrow's own streaming reads 32 blocks ahead, which is no bound for wide rows.
    """
    rest = b""
    with path.open("rb") as file:
        while block := file.read(size):
            block = rest + block
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                yield block[:end]
    if rest:
        yield rest


def _csv_error(path: Path, names: list[str], message: str, lines_before: int) -> UserError:
    if match := BAD_CELL.search(message):
        line, column, cell = _line(path, lines_before + int(match[2])), names[int(match[1])], match[3]
        return UserError(f"{path} line {line}, column {quoted(column)}: {quoted(cell)} is not a number")
    if match := BAD_UTF8.search(message):
        return UserError(
            f"{path} line {_line(path, lines_before + int(match[1]))}: not UTF-8 text; save the file as UTF-8"
        )
    if match := BAD_WIDTH.search(message):
        line = _line(path, lines_before + int(match[1]))
        return UserError(f"{path} line {line}: {match[3]} columns where the header has {match[2]}")
    return UserError(f"{path}: cannot be read as CSV ({quoted(message)})")


# --- Parquet


@contextmanager
def _parquet(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        yield pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({quoted(str(error))})") from error


def _parquet_header(path: Path) -> list[str]:
    with _parquet(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    if not rows:
        raise UserError(f"{path}: no rows")
    kind = schema.types[0].value_type if pa.types.is_dictionary(schema.types[0]) else schema.types[0]
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise UserError(f"{path}: the first column, {quoted(schema.names[0])}, holds {kind}, not ids: text or integers")
    for name, kind in zip(schema.names[1:], schema.types[1:], strict=True):
        if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
            raise UserError(f"{path}: column {quoted(name)} holds {kind}, not integers or floats (of 32 or 64 bits)")
    names: list[str] = schema.names
    return names


def _read_parquet(path: Path, names: list[str]) -> tuple[list[str], Array]:
    """By groups of columns: read by rows, Arrow would hold a decoder, and a page, of every column at once."""
    with _parquet(path) as file:
        ids = file.read(columns=names[:1], use_threads=False).column(0).cast(pa.string()).to_pylist()
        values = np.empty((len(ids), len(names) - 1), dtype=np.float32)
        step = max(1, BLOCK_BYTES // (8 * len(ids)))
        for start in range(0, values.shape[1], step):
            group = names[1 + start : 1 + start + step]
            table = file.read(columns=group, use_threads=False).select(group)  # asked for `a`, it also gives `a.b`
            (batch,) = table.combine_chunks().to_batches()
            with np.errstate(over="ignore"):  # becomes infinite, which read_table reports
                values[:, start : start + step] = batch.to_tensor(null_to_nan=True).to_numpy()
    return ids, values


# --- words


def where(path: Path, row: int, ids: "Sequence[str] | pd.Series[str] | None" = None) -> str:
    return f"{path} {_place(path, row)}" + ("" if ids is None else f" (id {quoted(ids[row])})")


def _place(path: Path, row: int) -> str:
    """A row, counted from 0, as an editor shows it: in CSV the header is line 1."""
    return f"line {_line(path, row + 2)}" if _is_csv(path) else f"row {row + 1}"


def _line(path: Path, number: int) -> int:
    """Which line of a file the `number`th is that is not blank; Arrow leaves blank lines out."""
    with path.open("rb") as file:
        there = (line for line, text in enumerate(file, 1) if text.strip(b"\r\n"))
        return next(islice(there, number - 1, None), number)


def quoted(text: object) -> str:
    """On one line, whatever the text holds, and not longer than one reads."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:76]}..."


def listed(names: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(quoted, names[:most])) + (", ..." if len(names) > most else "")


def counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({listed(names)})"


@cache
def warn(text: str) -> None:
    """Once for each text: tuning loads every split again."""
    say(f"warning: {text}")
