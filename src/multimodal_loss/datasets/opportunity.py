"""OPPORTUNITY (Table 3): 113 channels of 19 body-worn devices, 30 samples a second, with locomotion and gesture labels.

Each device is a modality. Runs, channels, scaling and windows follow one of two profiles:

- `ordonez2016`: the preprocessing released with DeepConvLSTM (Ordonez and Roggen, Sensors 16(1):115, 2016), with the
  article's validation runs;
- `strc_py3_2021`: the same laboratory's later PyTorch port, where it differs. Its test score has one window a sample.
  The port's loop loses the last window and counts the 23 samples before the first as correct; here neither is done.

Windows are cut from the concatenation of a split's recordings, as in both, so a few straddle two recordings; a window's
label is that of its last sample.
"""

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_loss.datasets import opportunity_channels as uci
from multimodal_loss.datasets import opportunity_files as files
from multimodal_loss.datasets.base import Dataset, MultimodalData, Split, require_names
from multimodal_loss.datasets.cache import cached, digest_of, key_of, sha256_of
from multimodal_loss.errors import MissingData, UserError, require_choice, require_number

# A folder with a file of this name holds data of scripts/make_opportunity_like.py.
GENERATED_MARKER = "GENERATED"
SCALINGS = ("thresholds", "zscore")
TRAILING_NAN = ("repeat", "zero")


class Profile(NamedTuple):
    """What the two published pipelines disagree on; `test_step` None is `step`."""

    validation_runs: tuple[str, ...]
    scaling: str
    trailing_nan: str
    test_step: int | None


PROFILES = {
    "ordonez2016": Profile(("S2-ADL3", "S3-ADL3"), "thresholds", "repeat", None),
    "strc_py3_2021": Profile(("S1-ADL5",), "zscore", "zero", 1),
}


def window_starts(rows: int, window: int, step: int) -> Tensor:
    """First sample of every whole window, (N,) long; N = floor((rows - window) / step) + 1, or 0 if none fits."""
    return torch.arange(0, max(rows - window + 1, 0), step)


def sample_wise(predictions: NDArray[Any], rows: int, window: int, step: int) -> NDArray[Any]:
    """Predictions of windows (N, ...) spread over the samples they were cut from: (rows, ...).

    Each sample takes the prediction of the first window whose last sample is at it or after it; so a window speaks for
    the `step` samples that end with its last. Samples after the last window's end (fewer than `step`) take the last
    window's. With `step` 1 every sample from number `window - 1` on has a window of its own, and the ones before take
    the first. Raises ValueError unless N is the number of windows.
    """
    number = len(window_starts(rows, window, step))
    if len(predictions) != number or not number:
        raise ValueError(f"{len(predictions)} predictions, but {number} windows of {window}/{step} in {rows} samples")
    steps_to_end = np.arange(rows) - (window - 1)
    index = np.clip(-(-steps_to_end // step), 0, number - 1)
    return predictions[index]


@dataclass(frozen=True)
class WindowSplit(Split):
    """Windows over the frames of a split, cut when asked for: `inputs` holds the frames (T, 113) float32.

    `starts` (N,) long: first sample of each window. `channels`: (first, end) among the 113 of each modality.
    `sample_target` (T,) long: the class of every sample. `recordings`: name, first row and rows of each.
    """

    starts: Tensor
    window: int
    step: int
    channels: tuple[tuple[int, int], ...]
    sample_target: Tensor
    recordings: tuple[tuple[str, int, int], ...]

    def rows(self, index: Tensor | slice) -> tuple[Tensor, ...]:
        """Modality m of the windows at `index`: (B, window, d_m), a view of one gathered (B, window, 113)."""
        samples = self.starts[index].unsqueeze(1) + torch.arange(self.window, device=self.starts.device)
        windows = self.inputs[0][samples]
        return tuple(windows[:, :, first:end] for first, end in self.channels)

    def ids(self) -> NDArray[Any]:
        """Recording, and the sample in it, counted from 0, that a window ends with: `S2-ADL4/23`."""
        ends = (self.starts + self.window - 1).cpu().numpy()
        names, firsts, _ = zip(*self.recordings, strict=True)
        which = np.searchsorted(firsts, ends, side="right") - 1
        return np.array([f"{names[r]}/{end - firsts[r]}" for r, end in zip(which, ends, strict=True)], dtype=np.str_)

    def rescored(self, fused: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """`samples`: every sample of the recordings, by the prediction of its window."""
        target = self.sample_target.cpu().numpy()
        return {"samples": (target, sample_wise(fused, len(target), self.window, self.step))}

    def description(self) -> dict[str, Any]:
        """How many windows end in each recording, in order, and how far apart they are: what a timeline needs."""
        ends = self.starts + self.window - 1
        counts = [[name, int(((ends >= first) & (ends < first + rows)).sum())] for name, first, rows in self.recordings]
        return {"recordings": counts, "seconds_per_prediction": self.step / uci.SAMPLES_PER_SECOND}

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((self.window, end - first) for first, end in self.channels)

    def to(self, device: torch.device) -> Self:
        return dataclasses.replace(
            self,
            inputs=tuple(x.to(device) for x in self.inputs),
            target=self.target.to(device),
            starts=self.starts.to(device),
            sample_target=self.sample_target.to(device),
        )


@dataclass(frozen=True)
class Frames:
    """Prepared samples of a split: `values` (T, 113) float32, `labels` (T, 2) uint8 of the tasks, `rows` by run."""

    values: files.Array
    labels: NDArray[np.uint8]
    rows: tuple[int, ...]


class OpportunityDataset(Dataset):
    """Prepares the 18 recordings once per set of files and options and reads them back memory-mapped.

    Args:
        path: the folder with S1-Drill.dat ... S3-ADL5.dat.
        cache_dir: where the prepared arrays live; None prepares them in memory.
        task: gestures (18 classes) or locomotion (5), each with the class Null.
        profile: ordonez2016 or strc_py3_2021; an option below that is None takes the profile's value.
        validation_runs: training runs kept for validation; an empty list trains on all 14 and has no validation split.
        scaling: thresholds (fixed, to [0, 1]) or zscore (mean and standard deviation, ddof 0, of the training samples).
        trailing_nan: repeat (a channel's last value goes on) or zero (in the file's units), after its last value.
        window, step: samples per window, and from one to the next.
        test_step: the step of the test windows.
        modalities: names of devices that a model may see, in this order; None for all 19.
        generated: whether the files must come from scripts/make_opportunity_like.py; None takes what is there.
    """

    version: ClassVar[int] = 1  # names the cache too: an old one is never read as new data

    def __init__(
        self,
        path: str | Path,
        cache_dir: str | Path | None = None,
        task: str = "gestures",
        profile: str = "ordonez2016",
        validation_runs: Sequence[str] | None = None,
        scaling: str | None = None,
        trailing_nan: str | None = None,
        window: int = 24,
        step: int = 12,
        test_step: int | None = None,
        modalities: Sequence[str] | None = None,
        generated: bool | None = None,
    ) -> None:
        require_choice("dataset.task", task, tuple(uci.TASKS))
        require_choice("dataset.profile", profile, tuple(PROFILES))
        published = PROFILES[profile]
        self.task = task
        self.validation_runs = tuple(published.validation_runs if validation_runs is None else validation_runs)
        self.scaling = published.scaling if scaling is None else scaling
        self.trailing_nan = published.trailing_nan if trailing_nan is None else trailing_nan
        self.window, self.step = window, step
        self.test_step = test_step if test_step is not None else published.test_step or step
        names = [d.name for d in uci.DEVICES]
        self.modalities = tuple(names if modalities is None else modalities)
        require_choice("dataset.scaling", self.scaling, SCALINGS)
        require_choice("dataset.trailing_nan", self.trailing_nan, TRAILING_NAN)
        for key in ("window", "step", "test_step"):
            require_number(f"dataset.{key}", getattr(self, key), positive=True, integer=True)
        require_names("validation_runs", self.validation_runs, uci.TRAINING_RUNS, or_none=True)
        require_names("modalities", self.modalities, names)
        if len(self.validation_runs) == len(uci.TRAINING_RUNS):
            raise UserError("dataset.validation_runs: names every training run; leave some to train on")
        self.path = Path(path)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.generated = (self.path / GENERATED_MARKER).is_file()
        self._wanted = self.generated if generated is None else generated
        self._data: MultimodalData | None = None

    def load(self, fold: int | None = None) -> MultimodalData:
        """The three splits; the same for every replicate.

        Raises MissingData for files that are not there, UserError for files that are not the published ones or not
        readable, and for a cache that cannot be written or read.
        """
        if self._data is None:
            key = self._key()  # looks at the files first
            if self.cache_dir is None:
                frames = self._prepare()
                fingerprint = _digest(frames)
            else:
                folder = self.cache_dir / f"opportunity-{key}"
                frames, fingerprint = cached(folder, "content.json", "the prepared data", self._write, self._read)
            cut = [fingerprint, self.task, self.modalities, self.window, self.step, self.test_step]
            self._data = MultimodalData(
                train=self._split(frames, "train", self.step),
                validation=self._split(frames, "validation", self.step) if self.validation_runs else None,
                test=self._split(frames, "test", self.test_step),
                modalities=self.modalities,
                classes=uci.label_track(uci.TASKS[self.task][1])[1],
                fingerprint=self._told(key_of(cut)),
            )
        return self._data

    def runs(self) -> dict[str, tuple[str, ...]]:
        """The recordings of each split, in the order in which windows run through them."""
        train = tuple(r for r in uci.TRAINING_RUNS if r not in self.validation_runs)
        validation = tuple(r for r in uci.TRAINING_RUNS if r in self.validation_runs)
        runs = {"train": train, "validation": validation, "test": uci.TEST_RUNS}
        return {split: names for split, names in runs.items() if names}

    def fingerprint(self) -> str:
        """Of the checksums of the 18 recordings, which the cache remembers by size and time of change."""
        return self._told(key_of(self._sources))

    def require_files(self) -> None:
        """Raise MissingData unless all 18 recordings are there, UserError for generated ones in the place of real ones
        and the other way round. Does not look into them.
        """
        missing = [self._file(run).name for run in uci.RUNS if not self._file(run).is_file()]
        if not self.path.exists():
            raise MissingData(f"{self.path} does not exist")
        if missing:
            found = f"{len(missing)} of {len(uci.RUNS)} files are not there"
            raise MissingData(f"{self.path}: {found}, the first is {missing[0]}")
        if self.generated != self._wanted:
            raise UserError(
                f"{self.path}: {'holds' if self.generated else 'does not hold'} generated data (file"
                f" {GENERATED_MARKER}), but dataset.generated={str(self._wanted).lower()}; give another dataset.path,"
                f" or dataset.generated={str(self.generated).lower()}"
            )

    # --- the files

    def _file(self, run: str) -> Path:
        return self.path / f"{run}.dat"

    @cached_property
    def _sources(self) -> dict[str, str]:
        """sha256 of each recording's file, which must be the published one unless the folder holds generated data."""
        self.require_files()
        paths = [self._file(run) for run in uci.RUNS]
        index = None if self.cache_dir is None else self.cache_dir / "opportunity-files.json"
        try:
            digests = dict(zip(uci.RUNS, sha256_of(paths, index), strict=True))
        except OSError as error:
            raise UserError(f"{error.filename or self.path}: {error.strerror or error}") from error
        for run, digest in () if self.generated else digests.items():
            published = uci.manifest()[run]
            if digest != published.sha256:
                files.read_recording(self._file(run))  # says which line is wrong, where one is
                raise UserError(
                    f"{self._file(run)}: not the published file ({self._file(run).stat().st_size:,} bytes where "
                    f"{published.size:,} are published, another sha256); get it again: make data-opportunity"
                )
        return digests

    def _prepare(self) -> dict[str, Frames]:
        """All samples of each split: read, interpolated within each recording, scaled."""
        with ThreadPoolExecutor(files.WORKERS) as pool:
            frames = {}
            for split, runs in self.runs().items():
                values, labels = zip(*pool.map(self._prepare_recording, runs), strict=True)
                rows = tuple(len(v) for v in values)
                frames[split] = Frames(np.concatenate(values), np.concatenate(labels), rows)
        if self.scaling == "zscore":
            mean = frames["train"].values.mean(axis=0, dtype=np.float64)
            spread = frames["train"].values.std(axis=0, dtype=np.float64)
            spread[spread == 0] = 1.0  # a channel that never changes becomes 0
            for part in frames.values():
                np.subtract(part.values, mean, out=part.values, casting="same_kind")
                np.divide(part.values, spread, out=part.values, casting="same_kind")
        return frames

    def _prepare_recording(self, run: str) -> tuple[files.Array, NDArray[np.uint8]]:
        recording = files.read_recording(self._file(run), published=not self.generated)
        files.interpolate(recording.frames, self.trailing_nan)
        if self.scaling == "thresholds":
            files.to_unit_range(recording.frames)
        return recording.frames.astype(np.float32, order="C"), recording.labels

    # --- the cache

    def _key(self) -> str:
        options = {"validation_runs": sorted(self.validation_runs), "scaling": self.scaling}
        content = {"version": self.version, "sources": self._sources, **options, "trailing_nan": self.trailing_nan}
        return key_of(content)

    def _write(self, folder: Path) -> None:
        frames = self._prepare()
        for split, part in frames.items():
            np.save(folder / f"{split}.npy", part.values)
            np.save(folder / f"{split}-labels.npy", part.labels)
        rows = {split: part.rows for split, part in frames.items()}
        content = json.dumps({"fingerprint": _digest(frames), "rows": rows}, indent=1)
        (folder / "content.json").write_text(content + "\n")

    def _read(self, folder: Path) -> tuple[dict[str, Frames], str]:
        content, frames = json.loads((folder / "content.json").read_text()), {}
        for split, rows in content["rows"].items():
            # A copy-on-write map: torch wants writable memory, and nothing may change the file.
            values = np.load(folder / f"{split}.npy", mmap_mode="c")
            labels = np.load(folder / f"{split}-labels.npy")
            if not len(values) == len(labels) == sum(rows):
                raise ValueError(f"{split}.npy has {len(values)} rows where {sum(rows)} are expected")
            frames[split] = Frames(values, labels, tuple(rows))
        return frames, content["fingerprint"]

    # --- windows

    def _split(self, frames: dict[str, Frames], split: str, step: int) -> WindowSplit:
        part, runs = frames[split], self.runs()[split]
        starts = window_starts(len(part.values), self.window, step)
        if not len(starts):
            samples = f"the {len(part.values)} samples of the {split} runs ({', '.join(runs)})"
            raise UserError(f"dataset.window={self.window}: longer than {samples}")
        sample_target = torch.from_numpy(part.labels[:, list(uci.TASKS).index(self.task)].astype(np.int64))
        firsts = np.cumsum((0, *part.rows))[:-1].tolist()
        devices = {d.name: d for d in uci.DEVICES}
        return WindowSplit(
            inputs=(torch.from_numpy(part.values),),
            target=sample_target[starts + self.window - 1],
            starts=starts,
            window=self.window,
            step=step,
            channels=tuple(uci.channel_range(devices[name]) for name in self.modalities),
            sample_target=sample_target,
            recordings=tuple(zip(runs, firsts, part.rows, strict=True)),
        )

    def _told(self, digest: str) -> str:
        """Generated data are known by the first word of their fingerprints."""
        return f"generated-{digest}" if self.generated else digest


def _digest(frames: dict[str, Frames]) -> str:
    return digest_of(array for split in sorted(frames) for array in (frames[split].values, frames[split].labels))
