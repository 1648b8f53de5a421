"""Reading run directories, however they were left behind, and summing replicates up.

Nothing here raises for what is wrong inside a run directory: a run that was killed, failed or damaged is a `Run` whose
`state` and `reason` say so, and whoever asks for its numbers gets none.
"""

import json
import statistics
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from multimodal_loss.errors import one_line
from multimodal_loss.results.metrics import are_probabilities
from multimodal_loss.results.run_directory import SCHEMA, damage

TEST_ARRAYS = ("target", "fused", "modalities")
MASK = "mask"  # (N, M), where samples may lack a modality
FILES = ("result.json", "config.yaml", "history.csv", "checkpoint.pt")  # one of them makes a folder a run directory

# Of what result.json and config.yaml hold, the entries that are read and are not of any type: by path.
PARTS = ("dataset", "backbone", "fusion", "method")
TYPES: dict[type, Sequence[str]] = {
    Mapping: (
        *("config", "config/dataset", "config/trainer", "config/facts", "data", "dataset", "dataset/sizes", "backbone"),
        *("git", "versions", "hardware", "metrics", "proxies", *(f"config/facts/{part}" for part in PARTS)),
    ),
    str: (
        *("error", "profile", "config/profile", "device", "started", "ended", "git/sha", "data/fingerprint", "stopped"),
        *("hardware/cpu", "hardware/gpu", "backbone/notice", "data_fingerprint", "dataset/name", "experiment"),
        *(f"config/facts/{part}/{word}" for part in PARTS for word in ("name", "title", "colour")),
    ),
    int: ("config/trainer/max_epochs", "fold", "seed", "epochs", "hardware/threads"),
    list: ("dataset/modalities", "dataset/inputs", "dataset/classes", "dataset/recordings", "replicates"),
}
DEEPEST, LONGEST = 30, 200  # nesting, and letters of a text

RunState = Literal["done", "failed", "unfinished", "unreadable"]


@dataclass(frozen=True)
class Run:
    """One run directory. `result` is the content of result.json where `state` is done or failed; else it holds no more
    than the config, if that can be read.
    """

    path: Path
    state: RunState
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return one_line(self.path.name)

    @property
    def hash(self) -> str:
        """What identifies its settings, whatever the run is called: the end of the folder's name."""
        return self.name.rpartition("-")[2]

    @property
    def profile(self) -> str:
        return str(self.get("profile") or self.get("config/profile") or "full")

    @property
    def is_of_generated_data(self) -> bool:
        """Whether its data were made up in another dataset's format: the run says so, or the data's fingerprint."""
        prints = [self.get("data/fingerprint"), *(one.get("data_fingerprint") for one in self.replicates.values())]
        return self.get("dataset/generated") is True or any(str(one).startswith("generated") for one in prints)

    @property
    def replicates(self) -> dict[int, Mapping[str, Any]]:
        """The replicates that were computed, by their id."""
        return {replicate["replicate_id"]: replicate for replicate in self.result.get("replicates", [])}

    @property
    def modalities(self) -> list[str]:
        """Names of the scores: of the modalities, or of what a backbone makes of them together."""
        return self._names("dataset/modalities")

    @property
    def inputs(self) -> list[str]:
        """Names of the modalities that the model reads."""
        return self._names("dataset/inputs")

    @cached_property
    def targets(self) -> dict[int, bytes]:
        """The classes of the test samples in order, of the replicates whose predictions are sound."""
        arrays = read_predictions(self).items()
        return {int(key.partition("/")[0]): array.tobytes() for key, array in arrays if key.endswith("/target")}

    def modality_names(self, count: int) -> list[str]:
        """The modalities' names, or numbered ones where `count` others are stored."""
        return self.modalities if len(self.modalities) == count else [f"modality {m + 1}" for m in range(count)]

    def class_names(self, count: int) -> list[str]:
        """The classes' names, or their numbers from 0 where `count` others are stored."""
        names = self._names("dataset/classes")
        return names if len(names) == count else [str(c) for c in range(count)]

    def get(self, path: str) -> Any:
        """The entry of result.json at a path such as `config/optimizer/lr`; None where there is none."""
        return lookup(self.result, path)

    def values(self, metric: str) -> dict[int, float]:
        """A metric (`test/fused/ACC`) or other number of a replicate (`seconds`), by replicate id where there is one;
        of a list with one number per class (`proxies/used`) the mean.
        """
        found = {}
        for replicate_id, replicate in self.replicates.items():
            value = lookup(replicate.get("metrics"), metric)
            value = lookup(replicate, metric) if value is None else value
            if isinstance(value, list) and value and all(map(is_number, value)):
                value = statistics.fmean(value)
            if is_number(value):
                found[replicate_id] = float(value)
        return dict(sorted(found.items()))

    def _names(self, path: str) -> list[str]:
        names = self.get(path)
        return [str(name) for name in names] if isinstance(names, list) else []


@dataclass(frozen=True)
class Outputs:
    """One replicate's predictions of each modality (N, M, C) and the classes (N,), of test and training samples, and
    the proxies (C, K, M, C) as they enter the loss. The names are those of the arrays in predictions.npz.
    """

    target: NDArray[Any]
    modalities: NDArray[Any]
    train_target: NDArray[Any]
    train_modalities: NDArray[Any]
    proxies: NDArray[Any]


@dataclass(frozen=True)
class Aggregate:
    """Mean and sample standard deviation (ddof = 1) of n values; None where n is too small for it."""

    mean: float | None
    sd: float | None
    n: int


def aggregate(values: Iterable[float]) -> Aggregate:
    values = list(values)
    mean = statistics.fmean(values) if values else None
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Aggregate(mean, sd, len(values))


def read_runs(folder: Path) -> list[Run]:
    """Every run directory in `folder`, by name; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [read_run(path) for path in paths if _is_run(path)]


def _is_run(path: Path) -> bool:
    try:
        return path.is_dir() and any((path / name).exists() for name in FILES)
    except OSError:  # another user's: it is named
        return True


def read_run(path: Path) -> Run:
    try:
        return _read(path)
    except OSError as error:
        return Run(path, "unreadable", f"cannot be read: {error.strerror}")


def _read(path: Path) -> Run:
    file = path / "result.json"
    if not file.exists():
        return Run(path, "unfinished", "interrupted, or still running", _config_alone(path))
    try:
        result = _cleaned(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # ValueError covers broken JSON and broken UTF-8
        return Run(path, "unreadable", f"result.json cannot be read ({type(error).__name__})", _config_alone(path))
    complaint = _complaint(result)
    if complaint:
        return Run(path, "unreadable", f"result.json {complaint}", _config_alone(path))
    if result["status"] == "failed":
        return Run(path, "failed", result.get("error") or "no reason was recorded", result)
    if complaint := damage(path, result):
        return Run(path, "unreadable", complaint, _config_alone(path))
    return Run(path, "done", "", result)


def _cleaned(node: Any, depth: int = 0) -> Any:
    """Content of a file with every text on one line, of bounded length and without control characters, as every format
    can hold it. ValueError: nested too deeply, or a number of more than 64 bits.
    """
    if depth > DEEPEST or (isinstance(node, int) and abs(node) >= 2**63):
        raise ValueError(f"nested deeper than {DEEPEST} levels, or a number of more than 64 bits")
    if isinstance(node, dict):
        return {one_line(key, LONGEST): _cleaned(value, depth + 1) for key, value in node.items()}
    if isinstance(node, list):
        return [_cleaned(one, depth + 1) for one in node]
    return one_line(node, LONGEST) if isinstance(node, str) else node


def read_predictions(run: Run) -> dict[str, NDArray[Any]]:
    """The test arrays of predictions.npz (`0/target`, `0/fused`, `0/modalities`, and `0/mask` where there is one), of
    the replicates that are sound and have as many modalities and classes as the first of these.
    """
    wanted = (*TEST_ARRAYS, MASK)
    arrays = _read_arrays(run, lambda key: key.partition("/")[2] in wanted and key.partition("/")[0].isdecimal())
    ids = dict.fromkeys(key.partition("/")[0] for key in arrays)
    sound = [one for one in ids if _fits_together(arrays, one)]
    shapes = {one: arrays[f"{one}/modalities"].shape[1:] for one in sound}
    alike = {one for one in sound if shapes[one] == shapes[sound[0]]}
    return {key: array for key, array in arrays.items() if key.partition("/")[0] in alike}


def read_outputs(run: Run, replicate_id: int) -> Outputs | None:
    """What one replicate stored for Appendix C; None if a part is missing or does not fit the others."""
    arrays = _read_arrays(run, lambda key: key.startswith(f"{replicate_id}/"))
    parts = {field.name: arrays.get(f"{replicate_id}/{field.name}") for field in fields(Outputs)}
    found = {name: part for name, part in parts.items() if part is not None}
    if not _fits_together(arrays, str(replicate_id)) or len(found) < len(parts):
        return None
    outputs = Outputs(**found)
    classes, modalities = outputs.modalities.shape[2], outputs.modalities.shape[1]
    proxies, target = outputs.proxies, outputs.train_target
    if proxies.ndim != 4 or proxies.shape[0] != classes or proxies.shape[2:] != (modalities, classes):
        return None
    if outputs.train_modalities.shape != (*target.shape, modalities, classes) or target.ndim != 1:
        return None
    in_range = len(target) > 0 and 0 <= target.min() <= target.max() < classes
    finite = proxies.shape[1] > 0 and bool(np.all(np.isfinite(proxies)))
    return outputs if in_range and finite and are_probabilities(outputs.train_modalities) else None


def read_trust(run: Run) -> tuple[NDArray[np.floating], NDArray[np.integer]] | None:
    """How much a run trusts each modality with its test samples (N, M), and which one was replaced (N,), or -1, of all
    replicates; None where it has not stored both.
    """
    stored = _read_arrays(run, lambda key: key.partition("/")[2] in ("weights", "replaced"))
    ids = [key.partition("/")[0] for key in stored if key.endswith("/weights")]
    pairs = [(stored[f"{one}/weights"], stored[f"{one}/replaced"]) for one in ids if f"{one}/replaced" in stored]
    sound = [
        (weights, replaced)
        for weights, replaced in pairs
        if weights.ndim == 2 and replaced.shape == weights.shape[:1] and replaced.dtype.kind == "i"
        if weights.shape[1] == pairs[0][0].shape[-1] and are_probabilities(weights)
    ]
    if not sound:
        return None
    return np.concatenate([weights for weights, _ in sound]), np.concatenate([replaced for _, replaced in sound])


def read_history(run: Run) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Epochs and training losses per replicate from history.csv; a line that a killed run cut short is left out."""
    try:
        with (run.path / "history.csv").open(encoding="utf-8", errors="replace") as file:
            frame = pd.read_csv(file, usecols=["replicate_id", "epoch", "train_loss"], on_bad_lines="skip")
    except (OSError, ValueError):  # ParserError and EmptyDataError are ValueErrors
        return {}
    frame = frame.apply(pd.to_numeric, errors="coerce").dropna().sort_values("epoch")
    columns = ["epoch", "train_loss"]
    return {
        int(one): (curve[columns[0]].to_numpy(float), curve[columns[1]].to_numpy(float))
        for one, curve in frame.groupby("replicate_id")
    }


def lookup(tree: object, path: str) -> Any:
    """Walks nested mappings along `a/b/c`; None as soon as there is nothing."""
    for key in path.split("/"):
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def _complaint(result: object) -> str:
    """What keeps this from being a result of the format that is read here; empty if nothing does."""
    if not isinstance(result, dict):
        return "does not hold a mapping"
    if result.get("schema") != SCHEMA:
        return f"has schema {result.get('schema')!r}, this version reads {SCHEMA}"
    if result.get("status") not in ("done", "failed"):
        return f"has status {result.get('status')!r}, expected done or failed"
    replicates = result.get("replicates", [])
    if not isinstance(replicates, list):
        return "has no list of replicates"
    ids = [replicate.get("replicate_id") if isinstance(replicate, dict) else None for replicate in replicates]
    if any(type(one) is not int for one in ids) or len(set(ids)) < len(ids):
        return "has replicates without a replicate_id of their own"
    return next(filter(None, map(_wrong_type, (result, *replicates))), "")


def _wrong_type(entries: Mapping[str, Any]) -> str:
    for kind, paths in TYPES.items():
        for path in paths:
            value = lookup(entries, path)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                return f"has a {type(value).__name__} where {path} should be"
    return ""


def _config_alone(path: Path) -> dict[str, Any]:
    """What is known of a run without a result: its config, or nothing."""
    try:
        config = {"config": _cleaned(yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")))}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return {} if _wrong_type(config) else config


def _read_arrays(run: Run, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """The wanted arrays of predictions.npz; none if the file is damaged."""
    try:
        with np.load(run.path / "predictions.npz", allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if wanted(key)}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error):
        return {}


def _fits_together(arrays: Mapping[str, NDArray[Any]], replicate_id: str) -> bool:
    try:
        target, fused, modalities = (arrays[f"{replicate_id}/{part}"] for part in TEST_ARRAYS)
    except KeyError:
        return False
    if (target.ndim, fused.ndim, modalities.ndim) != (1, 2, 3) or len(target) == 0:
        return False
    if not np.issubdtype(target.dtype, np.integer):
        return False
    mask = arrays.get(f"{replicate_id}/{MASK}")
    if mask is not None and (mask.dtype != bool or mask.shape != modalities.shape[:2]):
        return False
    same_samples = len(target) == len(fused) == len(modalities)
    same_classes = fused.shape[1] == modalities.shape[2] and 0 <= target.min() <= target.max() < fused.shape[1]
    return same_samples and same_classes and are_probabilities(fused) and are_probabilities(modalities)


def is_number(value: object) -> bool:
    """Whether it is a number that statistics can be of, without overflow."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100
