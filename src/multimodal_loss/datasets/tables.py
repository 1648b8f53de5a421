"""A user's own tables: one file per modality and one of labels, in one folder.

    <folder>/<modality>.csv or .parquet    first column: sample id, under any heading; the others: numeric features
    <folder>/labels.csv                    first column: sample id; `label`; optionally `fold`, `split` and `group`

Rows are matched by id, compared as text. The samples, and their order, are those of labels.csv. CSV is comma-separated
UTF-8; a cell that is empty, NA or NaN is missing.

Where the split comes from, first match wins:

1. a `fold` column, whole numbers 0 to k - 1: fold f is the test part of fold f. A `split` column beside it may say
   train or validation: the rows of the other folds that it calls validation are the validation part.
2. a `split` column: train, validation and test, one fixed split.
3. stratified k-fold, shuffled.

Samples of one `group` (of one patient, say) are never in two parts: stratified folds keep groups together, and a `fold`
or `split` column that does not is refused.

Whatever is fitted (which features are constant, which vary most, means and standard deviations) is fitted on the
training part alone.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from multimodal_loss.datasets import table_files as files
from multimodal_loss.datasets.base import Dataset, MultimodalData, Split, require_names
from multimodal_loss.datasets.cache import key_of, sha256
from multimodal_loss.datasets.corruption import CorruptedSplit, Corruption
from multimodal_loss.datasets.fitted_tables import FittedTables, NewTables, Scaling, fit_scaling, read_new
from multimodal_loss.datasets.getting.tables_folder import written_source
from multimodal_loss.datasets.table_files import LABELS, SPLITS, Table, listed, quoted, where
from multimodal_loss.errors import UserError, require_choice, require_number
from multimodal_loss.options import at_most, file_name

Index = NDArray[np.int64]
# From a config, where `[1, 2]` are numbers, and one name may stand without brackets.
Names = str | Sequence[str | int | float]
# Where a number of folds was given, in words.
OPTIONS = {"folds": "dataset.folds", "inner_folds": "tuning.inner_folds (or of dataset.inner_folds, where that is set)"}


@dataclass(eq=False)
class TablesDataset(Dataset):
    """One modality per file of a folder.

    Args:
        path: the folder.
        label: what run names and reports call the data; nothing here reads it.
        modalities: names of the files to use, in order; None for all, sorted by name.
        missing: what to do about ids that are not in every file: `error`, or `drop` the samples. Dropping looks at
            every file of the folder, used or not, so that runs on different modalities share their samples and folds.
            `mask` takes samples that are in one file or more; fusions are told what they lack (see `Fusion`).
        folds, split_seed: of the stratified k-fold; unused where labels.csv has `fold` or `split`.
        repeats: how many shuffled k-folds the folds come from, by default one: 10 folds of 2 repeats are twice five.
        groups: `auto` keeps the samples of a group together where labels.csv has the column; `none` ignores it.
        top_variance: keep this many features of each modality, those of the largest variance in the training part.
        standardise: subtract the mean and divide by the standard deviation (ddof = 0) of the training part.
        impute: `mean` puts the feature's training mean where a cell is missing or infinite; None refuses such cells.
        classes: names in order; None sorts the labels, by value where all are numbers.
        corrupt, corrupt_share, corrupt_seed: replace a modality of this share of the samples (datasets/corruption.py).
        inner_folds, inner_fold: for tuning. The training part alone is split again (stratified, `split_seed`, by
            `groups`): inner fold `inner_fold` is both the validation and the test part, the rest is the training part,
            and no test sample of the outer split plays any role.

    `num_folds` is None where labels.csv has one fixed split.

    Raises UserError, naming file, line and column, for what is wrong with the files or the options.
    """

    version: ClassVar[int] = 1

    path: str | Path
    label: Annotated[str, file_name(100)] = "tables"
    modalities: Names | None = None
    missing: str = "error"
    folds: int = 5
    repeats: int | None = None
    split_seed: Annotated[int, at_most(2**32 - 1)] = 0  # what scikit-learn takes
    groups: str = "auto"
    top_variance: int | None = None
    standardise: bool = True
    impute: str | None = None
    classes: Names | None = None
    inner_folds: int | None = None
    inner_fold: int | None = None
    corrupt: str | None = None
    corrupt_share: float | None = None
    corrupt_seed: int | None = None

    def __post_init__(self) -> None:
        require_choice("dataset.missing", self.missing, ("error", "drop", "mask"))
        if self.missing == "mask" and self.corrupt is not None:
            raise UserError("dataset.missing=mask and dataset.corrupt: give one of them")
        require_choice("dataset.groups", self.groups, ("auto", "none"))
        require_choice("dataset.impute", self.impute, (None, "mean"))
        self._corruption = Corruption(self.corrupt, self.corrupt_share, self.corrupt_seed or 0)
        for key in ("split_seed", "top_variance", "folds", "repeats", "inner_folds", "inner_fold"):
            if (value := getattr(self, key)) is not None:
                require_number(f"dataset.{key}", value, positive=key in ("top_variance", "repeats"), integer=True)
                if key.endswith("folds") and value < 2:
                    raise UserError(f"dataset.{key}={value}: give two or more")
        if self.folds % self._repeats or self.folds // self._repeats < 2:
            raise UserError(
                f"dataset.repeats={self.repeats}: dataset.folds={self.folds} must be that many times two folds or more"
            )
        if (self.inner_folds is None) != (self.inner_fold is None):
            raise UserError("dataset.inner_folds and dataset.inner_fold: give both, or neither")
        if self.inner_folds is not None and self.inner_fold is not None and self.inner_fold >= self.inner_folds:
            raise UserError(
                f"dataset.inner_fold={self.inner_fold}: must lie in 0..{self.inner_folds - 1} (inner_folds)"
            )
        self._loaded: tuple[int | None, MultimodalData] | None = None

    def load(self, fold: int | None = None) -> MultimodalData:
        """Features (N, D) float32 of every modality; only the fold asked for last is kept in memory.

        Raises UserError for a fold that does not exist, and for what is wrong with the files.
        """
        self.require_files()
        self._check_fold(fold)
        if self._loaded is None or self._loaded[0] != fold:
            self._loaded = None  # frees the last fold before the next is made
            self._loaded = (fold, self._make(fold))
        return self._loaded[1]

    def fingerprint(self) -> str:
        """Of the bytes of labels.csv and of the files that are read: of all where `missing` drops samples."""
        read = [path for name, path in self._files.items() if name in self._names or self.missing == "drop"]
        try:
            return key_of({path.name: sha256(path) for path in (self._labels_path, *read)})
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror or error}") from error

    @property
    def generated(self) -> bool:  # type: ignore[override]  # known when the folder is looked at
        """Whether the folder's SOURCE.json says that its tables were made from made-up data."""
        return (written_source(self.folder) or {}).get("generated") == "true"

    def require_files(self) -> None:
        _ = self._names, self._labels  # looked at once

    restore = staticmethod(FittedTables.of_state)

    def read_new(
        self,
        source: Path | Mapping[str, pd.DataFrame],
        modalities: Sequence[str],
        classes: Sequence[str],
        partial: bool = False,
    ) -> NewTables:
        """Samples to predict, of other files than `path`: as `fitted_tables.read_new` says."""
        others = self.modalities is not None
        partial = partial or self.missing == "mask"
        return read_new(source, modalities, classes, self.impute, self.missing == "drop", others, partial)

    @property
    def _repeats(self) -> int:
        return self.repeats or 1

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    @property
    def _labels_path(self) -> Path:
        return self.folder / LABELS

    @cached_property
    def _class_names(self) -> tuple[str, ...] | None:
        return None if self.classes is None else _texts(self.classes)

    @cached_property
    def _files(self) -> dict[str, Path]:
        return files.modality_files(self.folder)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Of the modalities that are read."""
        names = tuple(self._files) if self.modalities is None else _texts(self.modalities)
        require_names("modalities", names, self._files)
        if "fused" in names:
            raise UserError(
                f"{self._files['fused']}: the fused prediction is called so; give the modality another name"
            )
        return names

    @cached_property
    def num_folds(self) -> int | None:  # type: ignore[override]  # known when labels.csv is read
        if "fold" in self._labels:
            return int(self._labels["fold"].max()) + 1
        return None if "split" in self._labels else self.folds

    @cached_property
    def _labels(self) -> pd.DataFrame:
        """labels.csv, checked; without the column `group` where it is to be ignored."""
        path = self._labels_path
        labels = files.read_labels(path)
        if self._class_names is not None:
            if files.first_repeated(self._class_names) is not None:
                raise UserError(f"dataset.classes={list(self._class_names)}: name each class once")
            wanted = f"in dataset.classes ({listed(self._class_names)})"
            files.check_cells(path, labels, "label", set(self._class_names).__contains__, wanted)
        if self.groups == "none":
            return labels.drop(columns="group", errors="ignore")
        parts = [column for column in ("fold", "split") if column in labels]
        if "group" in labels and parts:
            others = (labels[parts] != labels.groupby("group")[parts].transform("first")).any(axis=1).to_numpy()
            if others.any():
                row = int(others.argmax())
                raise UserError(
                    f"{where(path, row, labels['id'])}: group {quoted(labels['group'][row])} is in another "
                    f"{' or '.join(parts)} above; keep it in one, or set dataset.groups=none"
                )
        return labels

    def _check_fold(self, fold: int | None) -> None:
        if self.num_folds is None:
            if fold is not None:
                raise UserError(f"folds={fold}: {self._labels_path} has one fixed split; set folds=null")
        elif fold is None or not 0 <= fold < self.num_folds:
            given = "null" if fold is None else fold
            raise UserError(f"folds={given}: {self.folder} has folds 0 to {self.num_folds - 1}; name some of them")

    def _make(self, fold: int | None) -> MultimodalData:
        samples = self._samples
        parts = self._parts(fold)
        target = torch.from_numpy(samples.target)
        inputs: dict[str, list[Tensor]] = {part: [] for part in parts}
        scalings = []
        for table, rows in zip(samples.tables, samples.rows, strict=True):
            known = rows[parts["train"]]
            if not (known >= 0).any():
                raise UserError(f"{table.path}: has no sample of the training part")
            scaling = fit_scaling(table, known[known >= 0], self.top_variance, self.standardise)
            scalings.append(scaling)
            for part, positions in parts.items():
                inputs[part].append(scaling.apply(table, rows[positions]))
        splits, ids = {}, samples.labels["id"].to_numpy()
        for part, positions in parts.items():
            there = torch.from_numpy(np.stack(samples.rows, axis=1)[positions] >= 0)
            mask = None if self.missing != "mask" else there
            splits[part] = Split(tuple(inputs[part]), target[positions], names=tuple(ids[positions]), mask=mask)
            if self._corruption.touches(part):
                splits[part] = self._corrupted(splits[part], positions, scalings)
        return MultimodalData(
            train=splits["train"],
            validation=splits.get("validation"),
            test=splits["validation" if self.inner_folds is not None else "test"],
            modalities=self._names,
            classes=samples.classes,
            fingerprint=_digest(splits.values()),
            preparation=FittedTables(
                tuple(table.features for table in samples.tables),
                tuple(scalings),
                frozenset(name for part, split in splits.items() if part != "test" for name in split.names or ()),
            ),
        )

    def _corrupted(self, split: Split, positions: Index, scalings: "Sequence[Scaling]") -> CorruptedSplit:
        """The split with a modality of some samples replaced, in place."""
        samples, corruption = self._samples, self._corruption
        ids = samples.labels["id"].iloc[positions].to_list()
        replaced = corruption.replaced(ids, len(scalings))
        if corruption.kind == "noisy":
            for n in np.flatnonzero(replaced >= 0):
                m = replaced[n]
                noise = corruption.noise(f"{ids[n]} {self._names[m]}", len(samples.tables[m].features))
                split.inputs[m][n] = scalings[m].noise(noise)
        else:
            stand_ins = corruption.stand_ins(ids, samples.target[positions], len(samples.classes))
            for m, x in enumerate(split.inputs):
                chosen = torch.from_numpy(np.flatnonzero(replaced == m))
                x[chosen] = x[torch.from_numpy(stand_ins)[chosen]]
        return CorruptedSplit(split.inputs, split.target, names=split.names, replaced=replaced)

    @cached_property
    def _samples(self) -> "Samples":
        tables = {name: files.read_table(self._files[name], self.impute) for name in self._names}
        rows_of = {table.path: table.rows for table in tables.values()}
        if self.missing == "drop":
            unread = [path for path in self._files.values() if path not in rows_of]
            rows_of |= {path: files.read_ids(path) for path in unread}
        if self.missing == "mask":  # an id is in the files if it is in one of them
            rows_of = {self.folder: dict.fromkeys((name for rows in rows_of.values() for name in rows), 0)}
        drop, cure = self.missing == "drop", "" if self.missing == "mask" else ", or set dataset.missing=drop"
        kept = files.matched(self.folder, self._labels["id"].to_list(), LABELS, rows_of, drop, cure)
        labels = self._labels[kept].reset_index(drop=True)
        classes = files.class_order(labels["label"]) if self._class_names is None else self._class_names
        if len(classes) < 2:
            raise UserError(f"{self._labels_path}: all samples have the label {listed(classes)}; give two or more")
        target = pd.Categorical(labels["label"], classes).codes
        rows = tuple(np.array([t.rows.get(i, -1) for i in labels["id"]], dtype=np.int64) for t in tables.values())
        return Samples(labels, classes, target.astype(np.int64), tuple(tables.values()), rows)

    def _parts(self, fold: int | None) -> dict[str, Index]:
        """Positions among the samples of every part. Raises UserError for a part, or a class to train on, without."""
        parts, samples, path = self._outer_parts(fold), self._samples, self._labels_path
        if self.inner_folds is not None and self.inner_fold is not None:
            train = parts["train"]
            kept, held_out = self._stratified(train, self.inner_folds, self.inner_fold, "inner_folds")
            parts = {"train": train[kept], "validation": train[held_out]}
        for part, positions in parts.items():
            if not len(positions):
                raise UserError(f"{path}: no sample is in the {part} part")
        counts = np.bincount(samples.target[parts["train"]], minlength=len(samples.classes))
        if not counts.all():
            absent = quoted(samples.classes[int(np.argmin(counts))])
            where = "" if fold is None else f" of fold {fold}"
            cure = "; merge or leave out the class" + ", or use other folds" * (fold is not None)
            raise UserError(f"{path}: class {absent} has no sample in the training part{where}{cure}")
        return parts

    def _outer_parts(self, fold: int | None) -> dict[str, Index]:
        labels = self._samples.labels
        if fold is not None and "fold" not in labels:
            repeat, fold = divmod(fold, self.folds // self._repeats)
            positions = np.arange(len(labels))
            train, test = self._stratified(positions, self.folds // self._repeats, fold, "folds", repeat)
            return {"train": train, "test": test}
        said = labels["split"].to_numpy(copy=True) if "split" in labels else np.full(len(labels), "train", dtype=object)
        if fold is not None:
            said[labels["fold"] == fold] = "test"
        parts = {part: np.flatnonzero(said == part) for part in SPLITS}
        return {part: positions for part, positions in parts.items() if part != "validation" or len(positions)}

    def _stratified(self, positions: Index, folds: int, fold: int, option: str, repeat: int = 0) -> tuple[Index, Index]:
        """Where, in `positions`, the training and the held-out part of one fold are. A repeat is another shuffle."""
        samples, path = self._samples, self._labels_path
        target = samples.target[positions]
        for c, count in enumerate(np.bincount(target, minlength=len(samples.classes))):
            if count < folds:
                fewer = f"set it to {count}, or " if count > 1 else ""
                raise UserError(
                    f"{path}: samples of class {quoted(samples.classes[c])} to split: {count}, fewer "
                    f"than the {folds} of {OPTIONS[option]}; {fewer}merge or leave out the class"
                )
        if "group" not in samples.labels:
            splits = StratifiedKFold(folds, shuffle=True, random_state=self.split_seed + repeat).split(target, target)
        else:
            groups = samples.labels["group"].to_numpy()[positions]
            if (count := len(set(groups))) < folds:
                raise UserError(f"{path}: groups to split: {count}, fewer than the {folds} of {OPTIONS[option]}")
            splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=self.split_seed + repeat)
            splits = splitter.split(target, target, groups)
        train, held_out = list(splits)[fold]
        return train, held_out


@dataclass(frozen=True)
class Samples:
    """What is kept between folds. `rows[m][n]` is the row of sample n, of `labels`, in `tables[m]`."""

    labels: pd.DataFrame
    classes: tuple[str, ...]
    target: Index
    tables: tuple[Table, ...]
    rows: tuple[Index, ...]


def _digest(splits: Iterable[Split]) -> str:
    """16 hexadecimal digits of every tensor of the splits, in order."""
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (*split.inputs, split.target, *(() if split.mask is None else (split.mask,))):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()[:16]


def _texts(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(map(str, names))
