"""What is fitted on the training part of tables, kept for samples that come later, and such samples."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_loss.datasets import table_files as files
from multimodal_loss.datasets.base import NewSamples, Preparation
from multimodal_loss.datasets.table_files import LABELS, Table, counted, listed, quoted, warn
from multimodal_loss.errors import MissingData, UserError

Stats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Scaling:
    """Which columns are kept, their training mean, which also fills missing cells, and standard deviation, and whether
    they are standardised by these.
    """

    columns: Index
    mean: Stats
    sd: Stats
    standardise: bool

    @property
    def shift(self) -> Stats | float:
        return self.mean if self.standardise else 0.0

    @property
    def scale(self) -> Stats | float:
        return self.sd if self.standardise else 1.0

    def apply(self, table: Table, rows: Index) -> Tensor:
        """Features (len(rows), len(columns)), 0 where a row is -1. UserError: a value that float32 no longer holds."""
        if (rows < 0).any():
            features = torch.zeros(len(rows), len(self.columns))
            features[torch.from_numpy(rows >= 0)] = self.apply(table, rows[rows >= 0])
            return features
        out = np.empty((len(rows), len(self.columns)), dtype=np.float32)
        for part in files.blocks(len(rows), table.values.shape[1]):
            block = np.take(table.values[rows[part]], self.columns, axis=1).astype(np.float64)
            block = np.where(np.isnan(block), self.mean, block)
            with np.errstate(over="ignore"):
                out[part] = (block - self.shift) / self.scale
            if not np.isfinite(out[part]).all():
                feature = table.features[self.columns[np.argwhere(~np.isfinite(out[part]))[0, 1]]]
                raise UserError(
                    f"{table.path}: column {quoted(feature)} has a value too far from its training part for 32 bits"
                )
        return torch.from_numpy(out)

    def noise(self, draws: Stats) -> Tensor:
        """A scaled sample (len(columns),) of noise: `draws` are N(0, 1), one for each column of the table."""
        values = self.mean + self.sd * draws[self.columns]
        return torch.from_numpy(((values - self.shift) / self.scale).astype(np.float32))


def fit_scaling(table: Table, rows: Index, top_variance: int | None, standardise: bool) -> Scaling:
    """The scaling of one modality, from `rows` alone: those of the training part.

    Warns of, and leaves out, features that are constant there. Raises UserError if none is left.
    """
    parts = (_moments(table.values[rows, part]) for part in files.blocks(table.values.shape[1], len(rows)))
    mean, variance, varies = (np.concatenate(moment) for moment in zip(*parts, strict=True))
    constant = [name for name, kept in zip(table.features, varies, strict=True) if not kept]
    if len(constant) == len(table.features):
        raise UserError(f"{table.path}: every feature is constant in the training part")
    if constant:
        warn(f"{table.path}: {counted(constant, 'feature')} left out: constant in the training part")
    columns = np.flatnonzero(varies)
    if top_variance is not None:
        order = np.argsort(-variance[columns], kind="stable")
        columns = np.sort(columns[order[:top_variance]])
    mean, sd = mean[columns], np.sqrt(variance[columns])
    return Scaling(columns, mean, sd, standardise)


def _moments(values: NDArray[np.float32]) -> tuple[Stats, Stats, NDArray[np.bool_]]:
    """Mean and variance (ddof = 0, missing cells at the mean) of every column, and whether it varies.

    scikit-learn's StandardScaler gives the same bits in four times the time; its VarianceThreshold, after imputing,
    takes a constant for varying, because the mean is rounded.
    """
    count = (~np.isnan(values)).sum(axis=0)
    mean = np.nansum(values, axis=0, dtype=np.float64) / np.maximum(count, 1)
    variance = np.nansum((values - mean) ** 2, axis=0) / len(values)
    return mean, variance, np.fmax.reduce(values) > np.fmin.reduce(values)


@dataclass(frozen=True)
class FittedTables(Preparation):
    """Of each modality, in order: the `features` of its training file, all of them, and its scaling; `known` are the
    ids of the training and validation samples.
    """

    features: tuple[tuple[str, ...], ...]
    scalings: tuple[Scaling, ...]
    known: frozenset[str]

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {"known": _text(sorted(self.known))}
        for m, (names, scaling) in enumerate(zip(self.features, self.scalings, strict=True)):
            arrays: dict[str, NDArray[Any]] = {"columns": scaling.columns, "mean": scaling.mean, "sd": scaling.sd}
            state |= {f"{m}.{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
            state |= {f"{m}.features": _text(names), f"{m}.standardise": torch.tensor(scaling.standardise)}
        return state

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> "FittedTables":
        """What `state_dict` gave; of a run from before it kept them, no ids are known."""
        features, scalings = [], []
        for m in range(len(state) // 5):
            columns, mean, sd = (state[f"{m}.{name}"].numpy() for name in ("columns", "mean", "sd"))
            features.append(_texts(state[f"{m}.features"]))
            scalings.append(Scaling(columns, mean, sd, bool(state[f"{m}.standardise"])))
        known = _texts(state["known"]) if "known" in state else ()
        return cls(tuple(features), tuple(scalings), frozenset(known))

    def inputs(self, samples: NewSamples) -> tuple[Tensor, ...]:
        """Features (N, D_m) of each modality of `NewTables`, 0 where a sample lacks it; columns are found by their
        names.

        Raises UserError for a column that the training file did not have, or that is needed and not there.
        """
        assert isinstance(samples, NewTables)
        inputs = []
        for table, rows, names, scaling in zip(samples.tables, samples.rows, self.features, self.scalings, strict=True):
            if table is None:
                inputs.append(torch.zeros(len(rows), len(scaling.columns)))
            else:
                inputs.append(_found(table, names, scaling).apply(table, rows))
        return tuple(inputs)


def _text(names: Sequence[str]) -> Tensor:
    return torch.from_numpy(np.frombuffer(json.dumps(names).encode(), np.uint8).copy())


def _texts(stored: Tensor) -> tuple[str, ...]:
    return tuple(map(str, json.loads(stored.numpy().tobytes())))


def _found(table: Table, names: tuple[str, ...], scaling: Scaling) -> Scaling:
    """The scaling, of where its columns are in another table."""
    place = {name: position for position, name in enumerate(table.features)}
    needed = [names[column] for column in scaling.columns]
    if absent := [name for name in needed if name not in place]:
        raise UserError(f"{table.path}: lacks {counted(absent, 'column')} that the run was trained with")
    known = set(names)
    if others := [name for name in table.features if name not in known]:
        raise UserError(
            f"{table.path}: has {counted(others, 'column')} that the run was not trained with; leave it out"
        )
    return Scaling(np.array([place[name] for name in needed]), scaling.mean, scaling.sd, scaling.standardise)


# --- samples that come later


@dataclass(frozen=True)
class NewTables(NewSamples):
    """Samples from tables, as a run of TablesDataset takes them; `rows[m][n]` is the row of sample n in `tables[m]`, or
    -1 where it has none.
    """

    ids: NDArray[np.str_]
    target: Index | None
    tables: tuple[Table | None, ...]
    rows: tuple[Index, ...]

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        there = np.stack(self.rows, axis=1) >= 0
        return None if there.all() else there


def read_new(
    source: Path | Mapping[str, pd.DataFrame],
    modalities: Sequence[str],
    classes: Sequence[str],
    impute: str | None,
    drop: bool,
    others: bool,
    partial: bool,
) -> NewTables:
    """Samples from a folder with a file for each modality, from the file of the only one, or from data frames by
    modality, whose index holds the ids.

    The samples, and their order, are those of the folder's labels.csv, whose column label then gives `target`, or else
    of the first modality. Of ids that are not in every table the samples are left out (`drop`), or refused; `partial`
    takes every sample with one modality or more. `others`: whether there may be more modalities than the run reads.

    Raises UserError in one line for anything else than such tables.
    """
    folder, labels = Path("the tables"), None
    if isinstance(source, Path):
        folder, paths = source, _paths(source, modalities)
        labels = source / LABELS if (source / LABELS).exists() else None
        given = list(paths)
    else:
        given = list(source)
    absent = [name for name in modalities if name not in given]
    if absent and not (partial and len(absent) < len(modalities)):
        raise MissingData(f"{folder}: no table of {listed(absent)}; the run reads {listed(modalities)}")
    if not others and (more := [name for name in given if name not in modalities]):
        raise UserError(f"{folder}: the run has no modality {listed(more)}; it reads {listed(modalities)}")
    if isinstance(source, Path):
        cure = "; mend it (the run was trained without dataset.impute)"
        read = {name: files.read_table(paths[name], impute, cure) for name in modalities if name in paths}
    else:
        read = {name: _of_frame(name, source[name], impute) for name in modalities if name in source}
    rows_of = {table.path: table.rows for table in read.values()}
    first, target = next(iter(read.values())), None
    ids, reference = list(first.rows), first.path.name
    if partial:
        ids = list(dict.fromkeys(name for rows in rows_of.values() for name in rows))
    if labels is not None:
        told = files.read_labels(labels, with_split=False)
        files.check_cells(labels, told, "label", set(classes).__contains__, f"a class of the run ({listed(classes)})")
        ids, reference = told["id"].to_list(), LABELS
        target = pd.Categorical(told["label"], list(classes)).codes.astype(np.int64)
    if partial:  # an id is in the tables if it is in one of them
        rows_of = {folder: dict.fromkeys((name for rows in rows_of.values() for name in rows), 0)}
    kept = np.array(files.matched(folder, ids, reference, rows_of, drop))
    ids = [name for name, there in zip(ids, kept, strict=True) if there]
    tables = tuple(read.get(name) for name in modalities)
    found = ({} if table is None else table.rows for table in tables)
    rows = tuple(np.array([of_ids.get(name, -1) for name in ids], dtype=np.int64) for of_ids in found)
    return NewTables(np.array(ids, dtype=np.str_), None if target is None else target[kept], tables, rows)


def _paths(source: Path, modalities: Sequence[str]) -> dict[str, Path]:
    if source.is_dir():
        return files.modality_files(source, labelled=False)
    if len(modalities) > 1:
        kind = "is one file, and" if source.exists() else "does not exist;"
        raise MissingData(f"{source} {kind} the run reads {listed(modalities)}: give a folder with a file for each")
    if source.suffix.lower() not in files.SUFFIXES:
        raise UserError(f"{source}: a table is a .csv or .parquet file")
    return {modalities[0]: source}


def _of_frame(name: str, frame: pd.DataFrame, impute: str | None) -> Table:
    """A data frame as `read_table` gives a file."""
    place = Path(name)
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{name}: must be a pandas DataFrame (index: sample ids, columns: features), not {type(frame)}")
    ids, features = [str(one) for one in frame.index], [str(one) for one in frame.columns]
    files.check_table(place, ids, features)
    for feature, kind in zip(features, frame.dtypes, strict=True):
        if kind.kind not in "iufO":  # of objects, whether they are numbers is seen below
            raise UserError(f"{name}: column {quoted(feature)} holds {kind}, not integers or floats")
    try:
        with np.errstate(over="ignore"):
            values = np.array(frame.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float32, order="C")
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: the table holds a cell that is not a number ({error})") from error
    files.settle_missing(place, ids, features, values, impute, "; mend it (the run was trained without dataset.impute)")
    return Table(place, tuple(features), {one: row for row, one in enumerate(ids)}, values)
