"""A user's own tables: one file per modality and one of labels, in one folder.

    <folder>/<modality>.csv or .parquet    first column: sample id, under any heading; the others: numeric features
    <folder>/labels.csv                    first column: sample id; `label`; optionally `fold` and `split`

Rows are matched by id, compared as text. The samples, and their order, are those of labels.csv. CSV is comma-separated
UTF-8; a cell that is empty, NA or NaN is missing.

Where the split comes from, first match wins:

1. a `fold` column, whole numbers 0 to k - 1: fold f is the test part of fold f. A `split` column beside it may say
   train or validation: the rows of the other folds that it calls validation are the validation part.
2. a `split` column: train, validation and test, one fixed split.
3. stratified k-fold, shuffled.

Whatever is fitted (which features are constant, which vary most, means and standard deviations) is fitted on the
training part alone.
"""

import csv
import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from multimodal_loss.datasets.base import MultimodalData, Split
from multimodal_loss.errors import UserError, require_choice, require_number

Array = NDArray[np.float32]
Stats = NDArray[np.float64]
Index = NDArray[np.int64]

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


class TablesDataset:
    """One modality per file of a folder.

    Args:
        path: the folder.
        label: what run names and reports call the data; nothing here reads it.
        modalities: names of the files to use, in order; None for all, sorted by name.
        missing: what to do about ids that are not in every file: `error`, or `drop` the samples. Dropping looks at
            every file of the folder, used or not, so that runs on different modalities share their samples and folds.
        folds, split_seed: of the stratified k-fold; unused where labels.csv has `fold` or `split`.
        top_variance: keep this many features of each modality, those of the largest variance in the training part.
        standardise: subtract the mean and divide by the standard deviation (ddof = 0) of the training part.
        impute: `mean` puts the feature's training mean where a cell is missing or infinite; None refuses such cells.
        classes: names in order; None sorts the labels, by value where all are numbers.
        inner_folds, inner_fold: for tuning. The training part alone is split again (stratified, `split_seed`): inner
            fold `inner_fold` is both the validation and the test part, the rest is the training part, and no test
            sample of the outer split plays any role.

    `num_folds` is None where labels.csv has one fixed split.

    Raises UserError, naming file, line and column, for what is wrong with the files or the options.
    """

    def __init__(
        self,
        path: str | Path,
        label: str = "tables",
        modalities: Sequence[str] | None = None,
        missing: str = "error",
        folds: int = 5,
        split_seed: int = 0,
        top_variance: int | None = None,
        standardise: bool = True,
        impute: str | None = None,
        classes: Sequence[str] | None = None,
        inner_folds: int | None = None,
        inner_fold: int | None = None,
    ) -> None:
        _check_options(missing, folds, split_seed, top_variance, impute, inner_folds, inner_fold)
        self.folder = Path(path).expanduser()
        self.missing, self.impute = missing, impute
        self.folds, self.split_seed = folds, split_seed
        self.top_variance, self.standardise = top_variance, standardise
        self.inner_folds, self.inner_fold = inner_folds, inner_fold
        self._files = _modality_files(self.folder)
        self.modalities = _chosen(self._files, modalities)
        self._all_labels = read_labels(self.folder / LABELS)
        self._class_names = None if classes is None else self._checked_classes(_texts(classes))
        self.num_folds = self._count_folds()
        self._samples: Samples | None = None
        self._loaded: tuple[int | None, MultimodalData] | None = None

    def load(self, fold: int | None = None) -> MultimodalData:
        """Features (N, D) float32 of every modality; only the fold asked for last is kept in memory.

        Raises UserError for a fold that does not exist, and for what is wrong with the files.
        """
        self._check_fold(fold)
        if self._loaded is None or self._loaded[0] != fold:
            self._loaded = None  # frees the last fold before the next is made
            self._loaded = (fold, self._make(fold))
        return self._loaded[1]

    def _checked_classes(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if _first_repeated(names) is not None:
            raise UserError(f"dataset.classes={list(names)}: name each class once")
        labels, wanted = self._all_labels, f"in dataset.classes ({_listed(names)})"
        _check_cells(self.folder / LABELS, labels.ids, "label", labels.labels, set(names).__contains__, wanted)
        return names

    def _count_folds(self) -> int | None:
        labels = self._all_labels
        if labels.folds is not None:
            return max(labels.folds) + 1
        return None if labels.splits is not None else self.folds

    def _check_fold(self, fold: int | None) -> None:
        if self.num_folds is None:
            if fold is not None:
                raise UserError(f"folds={fold}: {self.folder / LABELS} has one fixed split; set folds=null")
        elif fold is None or not 0 <= fold < self.num_folds:
            given = "null" if fold is None else fold
            raise UserError(f"folds={given}: {self.folder} has folds 0 to {self.num_folds - 1}; name some of them")

    def _make(self, fold: int | None) -> MultimodalData:
        if self._samples is None:
            self._samples = self._read()
        samples = self._samples
        parts = self._parts(samples, fold)
        self._check_parts(samples, parts)
        target = torch.from_numpy(samples.target)
        inputs: dict[str, list[Tensor]] = {part: [] for part in parts}
        for table, rows in zip(samples.tables, samples.rows, strict=True):
            scaling = fit_scaling(table, rows[parts["train"]], self.top_variance, self.standardise)
            for part, positions in parts.items():
                inputs[part].append(scaling.apply(table, rows[positions]))
        splits = {part: Split(tuple(inputs[part]), target[positions]) for part, positions in parts.items()}
        return MultimodalData(
            train=splits["train"],
            validation=splits.get("validation"),
            test=splits["validation" if self.inner_folds is not None else "test"],
            modalities=self.modalities,
            classes=samples.classes,
            fingerprint=fingerprint(splits.values()),
        )

    def _read(self) -> "Samples":
        labels = self._all_labels
        tables = {name: read_table(self._files[name], self.impute) for name in self.modalities}
        rows_of = {table.path: table.rows for table in tables.values()}
        if self.missing == "drop":
            unread = [path for path in self._files.values() if path not in rows_of]
            rows_of |= {path: read_ids(path) for path in unread}
        labels = self._matched(labels, rows_of)
        classes = _class_order(labels.labels) if self._class_names is None else self._class_names
        if len(classes) < 2:
            raise UserError(f"{self.folder / LABELS}: all samples have the label {_listed(classes)}; give two or more")
        position = {name: c for c, name in enumerate(classes)}
        target = np.array([position[name] for name in labels.labels], dtype=np.int64)
        rows = tuple(np.array([t.rows[i] for i in labels.ids], dtype=np.int64) for t in tables.values())
        return Samples(labels, classes, target, tuple(tables.values()), rows)

    def _matched(self, labels: "Labels", rows_of: dict[Path, dict[str, int]]) -> "Labels":
        """The labels whose ids are in every file. Raises, or reports the others, as `missing` says."""
        known, complaints = set(labels.ids), []
        for path, rows in rows_of.items():
            absent = [i for i in labels.ids if i not in rows]
            unlabelled = [i for i in rows if i not in known]
            if absent:
                complaints.append(f"{path} lacks {_counted(absent, 'id')} of {LABELS}")
            if unlabelled:
                complaints.append(f"{path} has {_counted(unlabelled, 'id')} that {LABELS} lacks")
        if complaints and self.missing == "error":
            raise UserError(f"{'; '.join(complaints)}; mend the files, or set dataset.missing=drop")
        kept = [n for n, i in enumerate(labels.ids) if all(i in rows for rows in rows_of.values())]
        if not kept:
            raise UserError(f"{self.folder}: no id is in every file; {'; '.join(complaints)}")
        if complaints:
            _warn(f"{'; '.join(complaints)}; {len(kept)} of {len(labels.ids)} samples are left")
        return labels.take(kept)

    def _parts(self, samples: "Samples", fold: int | None) -> dict[str, Index]:
        """Positions among the samples of every part."""
        parts = self._outer_parts(samples, fold)
        if self.inner_folds is None or self.inner_fold is None:
            return parts
        train = parts["train"]
        kept, held_out = self._stratified(samples, train, self.inner_folds, self.inner_fold, "inner_folds")
        return {"train": train[kept], "validation": train[held_out]}

    def _outer_parts(self, samples: "Samples", fold: int | None) -> dict[str, Index]:
        labels = samples.labels
        if fold is not None and labels.folds is None:
            everything = np.arange(len(labels.ids))
            train, test = self._stratified(samples, everything, self.folds, fold, "folds")
            return {"train": train, "test": test}
        said = np.array(labels.splits if labels.splits is not None else ["train"] * len(labels.ids))
        if fold is not None:
            said[np.array(labels.folds) == fold] = "test"
        parts = {part: np.flatnonzero(said == part) for part in SPLITS}
        return {part: positions for part, positions in parts.items() if part != "validation" or len(positions)}

    def _stratified(
        self, samples: "Samples", positions: Index, folds: int, fold: int, option: str
    ) -> tuple[Index, Index]:
        """Where, in `positions`, the training and the held-out part of one fold are."""
        target = samples.target[positions]
        for c, count in enumerate(np.bincount(target, minlength=len(samples.classes))):
            if count < folds:
                raise UserError(
                    f"{self.folder / LABELS}: samples of class {_quote(samples.classes[c])} to split: {count}, fewer "
                    f"than dataset.{option}={folds}; use fewer folds, or merge or leave out the class"
                )
        splitter = StratifiedKFold(folds, shuffle=True, random_state=self.split_seed)
        train, held_out = list(splitter.split(target, target))[fold]
        return train, held_out

    def _check_parts(self, samples: "Samples", parts: dict[str, Index]) -> None:
        where = self.folder / LABELS
        for part, positions in parts.items():
            if not len(positions):
                raise UserError(f"{where}: no sample is in the {part} part")
        counts = np.bincount(samples.target[parts["train"]], minlength=len(samples.classes))
        if not counts.all():
            absent = samples.classes[int(np.argmin(counts))]
            raise UserError(f"{where}: class {_quote(absent)} has no sample in the training part")


@dataclass(frozen=True)
class Labels:
    """labels.csv, column by column."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    folds: tuple[int, ...] | None
    splits: tuple[str, ...] | None

    def take(self, positions: Sequence[int]) -> "Labels":
        return Labels(
            ids=tuple(self.ids[i] for i in positions),
            labels=tuple(self.labels[i] for i in positions),
            folds=None if self.folds is None else tuple(self.folds[i] for i in positions),
            splits=None if self.splits is None else tuple(self.splits[i] for i in positions),
        )


@dataclass(frozen=True)
class Table:
    """One modality: `values` (rows, features), NaN where a cell is missing; `rows` finds a row by its id."""

    path: Path
    features: tuple[str, ...]
    rows: dict[str, int]
    values: Array


@dataclass(frozen=True)
class Samples:
    """What is kept between folds. `rows[m][n]` is the row of sample n in `tables[m]`."""

    labels: Labels
    classes: tuple[str, ...]
    target: Index
    tables: tuple[Table, ...]
    rows: tuple[Index, ...]


# --- features of one part


@dataclass(frozen=True)
class Scaling:
    """Which columns are kept, what fills their missing cells, and x -> (x - shift) / scale."""

    columns: Index
    fill: Stats
    shift: Stats
    scale: Stats

    def apply(self, table: Table, rows: Index) -> Tensor:
        """Features (len(rows), len(columns)). Raises UserError for a value that float32 no longer holds."""
        out = np.empty((len(rows), len(self.columns)), dtype=np.float32)
        for part in _row_blocks(len(rows), table.values.shape[1]):
            block = np.take(table.values[rows[part]], self.columns, axis=1).astype(np.float64)
            block = np.where(np.isnan(block), self.fill, block)
            with np.errstate(over="ignore"):
                out[part] = (block - self.shift) / self.scale
            if not np.isfinite(out[part]).all():
                feature = table.features[self.columns[np.argwhere(~np.isfinite(out[part]))[0, 1]]]
                raise UserError(
                    f"{table.path}: column {_quote(feature)} has a value too far from its training part for 32 bits"
                )
        return torch.from_numpy(out)


def fit_scaling(table: Table, rows: Index, top_variance: int | None, standardise: bool) -> Scaling:
    """The scaling of one modality, from `rows` alone: those of the training part.

    Warns of, and leaves out, features that are constant there. Raises UserError if none is left.
    """
    mean, variance, varies = _moments(table.values, rows)
    constant = [name for name, kept in zip(table.features, varies, strict=True) if not kept]
    if len(constant) == len(table.features):
        raise UserError(f"{table.path}: every feature is constant in the training part")
    if constant:
        _warn(f"{table.path}: {_counted(constant, 'feature')} left out: constant in the training part")
    columns = np.flatnonzero(varies)
    if top_variance is not None:
        order = np.argsort(-variance[columns], kind="stable")
        columns = np.sort(columns[order[:top_variance]])
    fill = mean[columns]
    if not standardise:
        return Scaling(columns, fill, np.zeros_like(fill), np.ones_like(fill))
    return Scaling(columns, fill, fill, np.sqrt(variance[columns]))


def _moments(values: Array, rows: Index) -> tuple[Stats, Stats, NDArray[np.bool_]]:
    """Mean and variance (ddof = 0, missing cells at the mean) of every column over `rows`, and whether it varies."""
    width = values.shape[1]
    blocks = [rows[part] for part in _row_blocks(len(rows), width)]
    total, count, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
    for block in (values[b] for b in blocks):
        total += np.nansum(block, axis=0, dtype=np.float64)
        count += (~np.isnan(block)).sum(axis=0)
        low = np.fmin(low, np.fmin.reduce(block, axis=0))
        high = np.fmax(high, np.fmax.reduce(block, axis=0))
    mean = total / np.maximum(count, 1)
    for block in (values[b] for b in blocks):
        squares += np.nansum((block - mean) ** 2, axis=0)
    # Not by the variance: rounding of the mean leaves that of a constant above zero.
    return mean, squares / len(rows), high > low


def _row_blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (8 * width))
    return (slice(start, start + step) for start in range(0, rows, step))


def fingerprint(splits: Iterable[Split]) -> str:
    """16 hexadecimal digits of every tensor of the splits, in order."""
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (*split.inputs, split.target):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()[:16]


# --- the folder


def _check_options(
    missing: str,
    folds: int,
    split_seed: int,
    top_variance: int | None,
    impute: str | None,
    inner_folds: int | None,
    inner_fold: int | None,
) -> None:
    require_choice("dataset.missing", missing, ("error", "drop"))
    require_choice("dataset.impute", impute, (None, "mean"))
    require_number("dataset.split_seed", split_seed, integer=True)
    if top_variance is not None:
        require_number("dataset.top_variance", top_variance, positive=True, integer=True)
    for key, value in (("folds", folds), ("inner_folds", inner_folds)):
        if value is not None:
            require_number(f"dataset.{key}", value, integer=True)
            if value < 2:
                raise UserError(f"dataset.{key}={value}: give two or more")
    if (inner_folds is None) != (inner_fold is None):
        raise UserError("dataset.inner_folds and dataset.inner_fold: give both, or neither")
    if inner_folds is not None and inner_fold is not None:
        require_number("dataset.inner_fold", inner_fold, integer=True)
        if inner_fold >= inner_folds:
            raise UserError(f"dataset.inner_fold={inner_fold}: must lie in 0..{inner_folds - 1} (inner_folds)")


def _modality_files(folder: Path) -> dict[str, Path]:
    """The files of the modalities by name, sorted. Raises UserError unless there are two or more, and labels.csv."""
    if not folder.is_dir():
        raise UserError(f"dataset.path={folder}: {'not a' if folder.exists() else 'no such'} folder")
    files: dict[str, Path] = {}
    unread = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if path.suffix.lower() in NOTES:
            continue
        if path.suffix.lower() not in SUFFIXES:
            unread.append(path.name)
            continue
        if path.stem in files:
            raise UserError(f"{folder}: {files[path.stem].name} and {path.name} are one modality; remove one of them")
        files[path.stem] = path
    labels = files.pop("labels", None)
    if labels is None or labels.name != LABELS:
        raise UserError(f"{folder}: no {LABELS} (columns id and label, optionally fold and split)")
    if len(files) < 2:
        found = f"only one modality, {next(iter(files.values())).name}" if files else "no modality"
        raise UserError(f"{folder}: {found}; give two or more, each as <modality>.csv or <modality>.parquet")
    if unread:
        _warn(f"{folder}: {_counted(unread, 'file')} not read: a modality is a .csv or .parquet file")
    return dict(sorted(files.items()))


def _chosen(files: dict[str, Path], modalities: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(files) if modalities is None else _texts(modalities)
    unknown = [name for name in names if name not in files]
    if unknown or not names or len(set(names)) < len(names):
        raise UserError(f"dataset.modalities={list(names)}: choose from {', '.join(files)}, each once")
    return names


def _texts(names: Sequence[str]) -> tuple[str, ...]:
    """Names from a config, where `[1, 2]` are numbers, and one name may stand without brackets."""
    return (names,) if isinstance(names, str) else tuple(map(str, names))


# --- labels.csv


def read_labels(path: Path) -> Labels:
    """Raises UserError naming the line and column for whatever the module's description does not allow."""
    names = _column_names(path)
    table = _csv_text(path, names, names)
    ids, labels = table.pop(names[0]), table.pop("label", None)
    if labels is None:
        raise UserError(f"{path}: no column label; its columns are the id, label, and optionally fold and split")
    folds, splits = table.pop("fold", None), table.pop("split", None)
    if table:
        raise UserError(f"{path}: unknown column {_listed(list(table))}; allowed after the id: label, fold, split")
    _check_ids(path, ids)
    _check_cells(path, ids, "label", labels, lambda cell: bool(cell.strip()), "any text but an empty one")
    numbers = None if folds is None else _fold_numbers(path, ids, folds)
    if splits is not None:
        allowed = SPLITS if folds is None else SPLITS[:2]
        beside = "" if folds is None else " (beside the column fold, which says what is tested)"
        _check_cells(path, ids, "split", splits, lambda cell: cell in allowed, f"one of {', '.join(allowed)}{beside}")
    return Labels(tuple(ids), tuple(labels), numbers, None if splits is None else tuple(splits))


def _fold_numbers(path: Path, ids: list[str], folds: list[str]) -> tuple[int, ...]:
    _check_cells(path, ids, "fold", folds, lambda cell: cell.isdecimal() and len(cell) < 10, "a whole number from 0 on")
    numbers = tuple(map(int, folds))
    present = sorted(set(numbers))
    if present != list(range(len(present))) or len(present) < 2:
        raise UserError(f"{path}: column fold has {_listed(present)}; number two or more folds 0, 1, 2 and so on")
    return numbers


def _check_cells(
    path: Path, ids: Sequence[str], column: str, cells: Sequence[str], allowed: Callable[[str], bool], wanted: str
) -> None:
    for row, cell in enumerate(cells):
        if not allowed(cell):
            raise UserError(f"{_where(path, row, ids)}, column {column}: {_quote(cell)} is not {wanted}")


def _class_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels: by value where all are finite numbers, else as text."""
    names = sorted(set(labels))
    values = [_number(name) for name in names]
    return tuple(sorted(names, key=float)) if all(map(math.isfinite, values)) else tuple(names)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- tables on disk


def read_table(path: Path, impute: str | None = None) -> Table:
    """One modality's file, in blocks: memory holds the table as float32 and one block.

    With `impute`, cells that are missing or infinite become NaN and are counted in a warning. Raises UserError, naming
    line and column, for a cell that is no finite number, an id that is empty or there twice, and a file that is no
    table.
    """
    names = _column_names(path)
    if len(names) < 2:
        raise UserError(f"{path}: only one column; the first holds the ids, the others the features")
    ids, values = (_read_csv if _is_csv(path) else _read_parquet)(path, names)
    _check_ids(path, ids)
    imputed = 0
    for part in _row_blocks(*values.shape):
        bad = ~np.isfinite(values[part])
        if impute is None and bad.any():
            row, column = np.argwhere(bad)[0]
            row += part.start
            kind = "missing" if np.isnan(values[row, column]) else "infinite, or too large for 32 bits"
            raise UserError(
                f"{_where(path, row, ids)}, column {_quote(names[column + 1])}: the value is {kind}; mend it, "
                "or set dataset.impute=mean"
            )
        values[part][bad] = np.nan
        imputed += int(bad.sum())
    if imputed:
        _warn(f"{path}: {imputed} missing or infinite cells take the mean of their column in the training part")
    return Table(path, tuple(names[1:]), {name: row for row, name in enumerate(ids)}, values)


def read_ids(path: Path) -> dict[str, int]:
    """The row of every id, without reading the features. Raises UserError as `read_table` does."""
    names = _column_names(path)
    ids = (
        _csv_text(path, names[:1], names)[names[0]] if _is_csv(path) else _parquet_ids(path, _open_parquet(path), names)
    )
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
    twice = _first_repeated(names)
    if twice is not None:
        raise UserError(f"{path}: two columns are called {_quote(names[twice])}; name each differently")
    return names


def _check_ids(path: Path, ids: list[str]) -> None:
    for row, name in enumerate(ids):
        if not name or not name.strip():
            raise UserError(f"{_where(path, row)}: the id is empty")
    twice = _first_repeated(ids)
    if twice is not None:
        first = _place(path, ids.index(ids[twice]))
        raise UserError(f"{_where(path, twice)}: the id {_quote(ids[twice])} is also at {first}; keep one of them")


def _first_repeated(names: Sequence[str]) -> int | None:
    """Position of the first name that an earlier one equals."""
    seen: set[str] = set()
    for n, name in enumerate(names):
        if name in seen:
            return n
        seen.add(name)
    return None


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
        blocks = iter(partial(file.read, BLOCK_BYTES), b"")
        return 1 + sum(b.count(b"\n") + b.count(b"\r") - b.count(b"\r\n") for b in blocks)


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
        line, column, cell = lines_before + int(match[2]), names[int(match[1])], match[3]
        return UserError(f"{path} line {line}, column {_quote(column)}: {_quote(cell)} is not a number")
    if match := BAD_UTF8.search(message):
        return UserError(f"{path} line {lines_before + int(match[1])}: not UTF-8 text; save the file as UTF-8")
    if match := BAD_WIDTH.search(message):
        line = lines_before + int(match[1])
        return UserError(f"{path} line {line}: {match[3]} columns where the header has {match[2]}")
    return UserError(f"{path}: cannot be read as CSV ({_quote(message)})")


# --- Parquet


def _parquet_header(path: Path) -> list[str]:
    file = _open_parquet(path)
    schema = file.schema_arrow
    if not file.metadata.num_rows:
        raise UserError(f"{path}: no rows")
    kind = schema.types[0].value_type if pa.types.is_dictionary(schema.types[0]) else schema.types[0]
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise UserError(f"{path}: the first column, {_quote(schema.names[0])}, holds {kind}, not ids: text or integers")
    for name, kind in zip(schema.names[1:], schema.types[1:], strict=True):
        if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
            raise UserError(f"{path}: column {_quote(name)} holds {kind}, not integers or floats (of 32 or 64 bits)")
    names: list[str] = schema.names
    return names


def _parquet_ids(path: Path, file: pyarrow.parquet.ParquetFile, names: list[str]) -> list[str]:
    ids: list[str] = _parquet_columns(path, file, names[:1]).column(0).cast(pa.string()).to_pylist()
    return ids


def _read_parquet(path: Path, names: list[str]) -> tuple[list[str], Array]:
    """By groups of columns: read by rows, Arrow would hold a decoder, and a page, of every column at once."""
    file = _open_parquet(path)
    ids = _parquet_ids(path, file, names)
    values = np.empty((len(ids), len(names) - 1), dtype=np.float32)
    step = max(1, BLOCK_BYTES // (8 * len(ids)))
    for start in range(0, values.shape[1], step):
        group = names[1 + start : 1 + start + step]
        (batch,) = _parquet_columns(path, file, group).combine_chunks().to_batches()
        with np.errstate(over="ignore"):  # becomes infinite, which read_table reports
            values[:, start : start + step] = batch.to_tensor(null_to_nan=True).to_numpy()
    return ids, values


def _parquet_columns(path: Path, file: pyarrow.parquet.ParquetFile, wanted: list[str]) -> pa.Table:
    try:
        # Asked for `a`, Parquet also gives a column called `a.b`.
        return file.read(columns=wanted, use_threads=False).select(wanted)
    except (pa.ArrowException, OSError) as error:
        raise _parquet_error(path, error) from error


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _parquet_error(path, error) from error


def _parquet_error(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read as Parquet ({_quote(str(error))})")


# --- words


def _where(path: Path, row: int, ids: Sequence[str] | None = None) -> str:
    return f"{path} {_place(path, row)}" + ("" if ids is None else f" (id {_quote(ids[row])})")


def _place(path: Path, row: int) -> str:
    """A row, counted from 0, as an editor shows it: in CSV the header is line 1."""
    return f"line {row + 2}" if _is_csv(path) else f"row {row + 1}"


def _quote(text: object) -> str:
    """On one line, whatever the text holds, and not longer than one reads."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:76]}..."


def _listed(names: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(_quote, names[:most])) + (", ..." if len(names) > most else "")


def _counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({_listed(names)})"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
