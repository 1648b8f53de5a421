"""RAVDESS (Table 2): 1,440 clips, sound and picture, of 24 actors who speak a sentence in one of eight emotions.

Preprocessing, augmentation and modality dropout are those of the code released with Intermediate Attention
(Chumachenko, Iosifidis and Gabbouj, ICPR 2022); the five folds of actors are those of Luna-Jiménez et al. (Applied
Sciences 12(1):327, 2022), whose test parts share no actor. Nothing is held out for validation.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_loss.datasets import ravdess_audio as audio
from multimodal_loss.datasets import ravdess_video as video
from multimodal_loss.datasets.base import Batch, Dataset, Draws, MultimodalData, Split, require_names
from multimodal_loss.datasets.cache import cached, digest_of, key_of, locked, sha256, sha256_of
from multimodal_loss.datasets.decoding import DecodingSplit
from multimodal_loss.datasets.ravdess_files import (
    ACTORS,
    EMOTIONS,
    KINDS,
    SUFFIXES,
    Clip,
    Recording,
    find_recordings,
    missing,
    paths_of,
)
from multimodal_loss.errors import MissingData, UserError, require_choice, require_number

# A folder with a file of this name holds made-up clips in the format of RAVDESS.
GENERATED_MARKER = "GENERATED"
MODALITIES = ("audio", "video")
CLASSES = ("merge", "eight", "drop")
DROPOUTS = ("softhard", "noise", "none")
VIDEO_WINDOWS = ("first", "centred")
SHORT_CLIPS = ("black", "repeat")
CHANNEL_ORDERS = ("bgr", "rgb")
PIXELS = ("unit", "affectnet")
FACES = tuple(video.DETECTORS)
# Actors of the test part of each fold; the others are trained on.
FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
ROWS = {"softhard": 4, "noise": 3, "none": 1}  # that modality dropout makes of a clip


def class_names(classes: str) -> tuple[str, ...]:
    """In the order of the emotions' numbers; in `merge` calm stands for neutral too."""
    return EMOTIONS if classes == "eight" else EMOTIONS[1:]


def class_of(clip: Clip, classes: str) -> int | None:
    """None for a clip that is left out."""
    if classes == "eight":
        return clip.emotion - 1
    if clip.emotion == 1:
        return None if classes == "drop" else 0
    return clip.emotion - 2


def modality_dropout(batch: Batch, modalities: Sequence[str], kind: str, draws: Draws, samples: int) -> Batch:
    """The batch (K clips) with every clip in several forms, one row each; those of a clip lie together.

    softhard    4 rows (audio, video): (a, v), (c a, (1 - c) v), (0, v), (a, 0); c of 0, 0.01, ... 0.99, drawn for each
                clip
    noise       3 rows: (a, v), (N, v), (a, N), with standard normal N
    none        the batch as it is

    A modality that is taken alone gets its own half of the rows. Draws follow from seed, epoch and clip alone;
    `samples` is the number of clips, which keeps them apart from those of augmentation.
    """
    if kind == "none":
        return batch
    generators = [draws.generator(samples + position) for position in batch.index.tolist()]
    if kind == "softhard":
        shares = torch.stack([torch.randint(100, (), generator=generator) for generator in generators]) / 100
    inputs = []
    for name, x in zip(modalities, batch.inputs, strict=True):
        if kind == "softhard":
            share = (shares if name == "audio" else 1 - shares).to(x).view(-1, *[1] * (x.dim() - 1))
            zero = torch.zeros_like(x)
            forms = [x, share * x, zero, x] if name == "audio" else [x, share * x, x, zero]
        else:
            noise = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)
            forms = [x, noise, x] if name == "audio" else [x, x, noise]
        inputs.append(torch.stack(forms, dim=1).flatten(0, 1))
    rows = ROWS[kind]
    return Batch(tuple(inputs), batch.target.repeat_interleave(rows), batch.index.repeat_interleave(rows))


class Clips(Split):
    """What the splits of RAVDESS share; each has these fields."""

    actors: tuple[int, ...]  # of each clip
    modalities: tuple[str, ...]
    dropout: str  # as in `modality_dropout`

    def batches(
        self,
        order: Tensor | None,
        size: int | None,
        device: torch.device,
        draws: Draws | None = None,
        workers: int = 0,
    ) -> Iterator[Batch]:
        """As `Split.batches`; where there are `draws`, with modality dropout."""
        for batch in super().batches(order, size, device, draws, workers):
            yield batch if draws is None else self._dropped(batch, draws)

    def _dropped(self, batch: Batch, draws: Draws) -> Batch:
        return modality_dropout(batch, self.modalities, self.dropout, draws, len(self))

    @property
    def rows_per_sample(self) -> int:
        return ROWS[self.dropout]

    def rescored(self, fused: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """`actor_02`, ...: the clips of each actor."""
        target, actors = self.target.cpu().numpy(), np.array(self.actors)
        return {f"actor_{actor:02}": (target[actors == actor], fused[actors == actor]) for actor in np.unique(actors)}


@dataclass(frozen=True)
class SoundClips(Clips):
    """MFCC alone, in memory: `inputs` is one tensor (N, 10, 156)."""

    actors: tuple[int, ...]
    modalities: tuple[str, ...]
    dropout: str


@dataclass(frozen=True)
class FilmClips(Clips, DecodingSplit):
    """Crops of faces, with MFCC or alone; read from disk, augmented and made floats sample by sample.

    `crops`: the file (clips, 15, side, side, 3) uint8 RGB, of which `rows_of_file` (N,) are the split's; `mfcc`
    (N, 10, 156) or None; `seen`: what preparing them said of each.
    """

    inputs: tuple[Tensor, ...] = field(default=(), init=False, repr=False)
    actors: tuple[int, ...]
    modalities: tuple[str, ...]
    dropout: str
    crops: Path
    rows_of_file: tuple[int, ...]
    mfcc: Tensor | None
    seen: tuple[video.Seen, ...]
    side: int
    channel_order: str
    pixels: str

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        shapes = {"audio": (audio.COEFFICIENTS, audio.STEPS), "video": (3, video.FRAMES, self.side, self.side)}
        return tuple(shapes[modality] for modality in self.modalities)

    def sample(self, position: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        crops = _mapped(self.crops)[self.rows_of_file[position]]
        if generator is not None:
            crops = video.augmented(crops, generator)
        made = {"video": video.as_video(crops, self.channel_order, self.pixels)}
        if self.mfcc is not None:
            made["audio"] = self.mfcc[position]
        return tuple(made[modality] for modality in self.modalities)

    def description(self) -> dict[str, Any]:
        """What the crops lack: clips and frames without a face of their own, and films that are too short."""
        return {
            "clips_without_face": sum(one.without_face + one.lacking == video.FRAMES for one in self.seen),
            "frames_without_face": sum(one.without_face for one in self.seen),
            "frames_lacking": sum(one.lacking for one in self.seen),
        }


@cache
def _mapped(path: Path) -> NDArray[np.uint8]:
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


class RavdessDataset(Dataset):
    """Prepares the clips once per set of files and options and reads them back memory-mapped.

    One sample is audio (10, 156) float32, MFCC, and video (3, 15, 224, 224) float32 in [0, 1], the crops of a face.

    Args:
        path: the folder with `Actor_01` ... `Actor_24`, or with the archives as downloaded.
        cache_dir: where the prepared arrays live; None prepares MFCC in memory, and does not go with video.
        modalities: audio, video, or both, in this order.
        classes: merge (7: neutral counts as calm), eight, or drop (7, without the 96 neutral clips).
        modality_dropout: softhard, noise or none, as `modality_dropout`; None is softhard, or none where one modality
            is taken alone.
        video_window: first (3.6 s of pictures from the start, as released) or centred, as the sound is.
        short_clips: frames that a shorter clip lacks are black (as released), or repeat its last one.
        channel_order: bgr (as released) or rgb.
        pixels: unit, [0, 1] (as released), or affectnet, standardised as EfficientFace was trained.
        faces: mtcnn, or none: the whole picture.
        side: of the crops, in pixels.
        permuted_labels: the control of a leak: the labels of each actor's clips are dealt among them at random, once.
        generated: whether the files must be made-up ones (a file GENERATED lies with them); None takes what is there.
    """

    version: ClassVar[int] = 1  # names the cache too: an old one is never read as new data
    num_folds = len(FOLDS)

    def __init__(
        self,
        path: str | Path,
        cache_dir: str | Path | None = None,
        modalities: Sequence[str] = MODALITIES,
        classes: str = "merge",
        modality_dropout: str | None = None,
        video_window: str = "first",
        short_clips: str = "black",
        channel_order: str = "bgr",
        pixels: str = "unit",
        faces: str = "mtcnn",
        side: int = video.SIDE,
        permuted_labels: bool = False,
        generated: bool | None = None,
    ) -> None:
        require_names("modalities", modalities, MODALITIES)
        require_choice("dataset.classes", classes, CLASSES)
        require_choice("dataset.modality_dropout", modality_dropout, (None, *DROPOUTS))
        for key, value, choices in (
            ("video_window", video_window, VIDEO_WINDOWS),
            ("short_clips", short_clips, SHORT_CLIPS),
            ("channel_order", channel_order, CHANNEL_ORDERS),
            ("pixels", pixels, PIXELS),
            ("faces", faces, FACES),
        ):
            require_choice(f"dataset.{key}", value, choices)
        require_number("dataset.side", side, positive=True, integer=True)
        require_choice("dataset.permuted_labels", permuted_labels, (False, True))
        self.path = Path(path)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.modalities = tuple(modalities)
        self.classes = classes
        self.modality_dropout = modality_dropout or ("softhard" if len(self.modalities) > 1 else "none")
        self.permuted_labels = permuted_labels
        self.crop_options = video.CropOptions(video_window, short_clips, faces, side)
        self.channel_order, self.pixels = channel_order, pixels
        self.generated = (self.path / GENERATED_MARKER).is_file()
        self._wanted = self.generated if generated is None else generated
        self._data: tuple[int, MultimodalData] | None = None

    def load(self, fold: int | None = None) -> MultimodalData:
        """Training and test part of a fold; no validation part.

        Raises MissingData for files that are not there, UserError for files that cannot be read, for another fold, and
        for a cache that cannot be written or read.
        """
        if fold is None or not 0 <= fold < len(FOLDS):
            raise UserError(f"folds={fold}: RAVDESS has folds 0 to {len(FOLDS) - 1}; name some of them, or folds=auto")
        if self._data is None or self._data[0] != fold:
            self._data = fold, self._of_fold(fold)
        return self._data[1]

    def _of_fold(self, fold: int) -> MultimodalData:
        labels = self._labels()
        parts = {}
        for part, tested in (("train", False), ("test", True)):
            rows = [
                row
                for row, (clip, label) in enumerate(zip(self._clips, labels, strict=True))
                if label is not None and (clip.actor in FOLDS[fold]) == tested
            ]
            parts[part] = self._split(rows, torch.tensor([labels[row] for row in rows]))
        prepared = [self._audio[1]] if "audio" in self.modalities else []
        if "video" in self.modalities:
            prepared += [self._video[2], self.channel_order, self.pixels]
        content = [*prepared, list(self.modalities), fold, self.classes, self.permuted_labels]
        return MultimodalData(
            train=parts["train"],
            validation=None,
            test=parts["test"],
            modalities=self.modalities,
            classes=class_names(self.classes),
            fingerprint=self._told(key_of(content)),
        )

    def _split(self, rows: list[int], target: Tensor) -> Clips:
        shared: dict[str, Any] = {
            "target": target,
            "names": tuple(self._clips[row].stem(self.modalities[0]) for row in rows),
            "actors": tuple(self._clips[row].actor for row in rows),
            "modalities": self.modalities,
            "dropout": self.modality_dropout,
        }
        mfcc = self._audio[0][rows] if "audio" in self.modalities else None
        if "video" not in self.modalities:
            assert mfcc is not None
            return SoundClips(inputs=(mfcc,), **shared)
        folder, seen, _ = self._video
        return FilmClips(
            crops=folder / "crops.npy",
            rows_of_file=tuple(rows),
            mfcc=mfcc,
            seen=tuple(seen[row] for row in rows),
            side=self.crop_options.side,
            channel_order=self.channel_order,
            pixels=self.pixels,
            **shared,
        )

    def _labels(self) -> list[int | None]:
        """Class of each clip."""
        labels = [class_of(clip, self.classes) for clip in self._clips]
        if self.permuted_labels:
            generator = np.random.default_rng(0)
            for actor in ACTORS:
                places = [i for i, clip in enumerate(self._clips) if clip.actor == actor and labels[i] is not None]
                dealt = [labels[places[i]] for i in generator.permutation(len(places))]
                for place, label in zip(places, dealt, strict=True):
                    labels[place] = label
        return labels

    def fingerprint(self) -> str:
        """Of the checksums of the files that are used, which the cache remembers by size and time of change."""
        return self._told(key_of(self._sources))

    def require_files(self) -> None:
        """Raise MissingData unless every clip is there (of made-up ones: some for each fold), UserError for made-up
        ones in the place of real ones and the other way round. Does not look into them.
        """
        if not self.path.exists():
            raise MissingData(f"{self.path} does not exist")
        for modality in self.modalities:
            found = self._recordings[modality]
            absent = missing(found)
            needed = f"{KINDS[modality]}-01-*{' or '.join(SUFFIXES[modality])}"
            if absent and not self.generated:
                raise MissingData(
                    f"{self.path}: {len(absent):,} of 1,440 files {needed} are not there, in folders or archives; the "
                    f"first is Actor_{absent[0].actor:02}/{absent[0].stem(modality)}"
                )
            for number, actors in enumerate(FOLDS):
                if not any(clip.actor in actors for clip in found):
                    raise MissingData(f"{self.path}: no files {needed} of the actors of fold {number} are there")
        if self.generated != self._wanted:
            raise UserError(
                f"{self.path}: {'holds' if self.generated else 'does not hold'} generated data (file"
                f" {GENERATED_MARKER}), but dataset.generated={str(self._wanted).lower()}; give another dataset.path,"
                f" or dataset.generated={str(self.generated).lower()}"
            )

    def names(self, modality: str) -> list[str]:
        """Of the clips' files, without suffix, in the order in which they are prepared."""
        return [clip.stem(modality) for clip in self._clips]

    # --- the files

    @cached_property
    def _recordings(self) -> dict[str, dict[Clip, Recording]]:
        return {modality: find_recordings(self.path, modality) for modality in self.modalities}

    @cached_property
    def _clips(self) -> list[Clip]:
        """Those that have all modalities, sorted."""
        first, *others = self._recordings.values()
        return sorted(clip for clip in first if all(clip in found for found in others))

    @cached_property
    def _sources(self) -> dict[str, dict[str, str]]:
        """sha256 of each modality's files and archives."""
        self.require_files()
        index = None if self.cache_dir is None else self.cache_dir / "ravdess-files.json"
        sources = {}
        try:
            for modality, recordings in self._recordings.items():
                paths = paths_of(recordings[clip] for clip in self._clips)
                names = [str(path.relative_to(self.path)) for path in paths]
                sources[modality] = dict(zip(names, sha256_of(paths, index), strict=True))
        except OSError as error:
            raise UserError(f"{error.filename or self.path}: {error.strerror or error}") from error
        return sources

    # --- prepared

    @cached_property
    def _audio(self) -> tuple[Tensor, str]:
        """MFCC (N, 10, 156) of the clips, and their fingerprint."""
        if self.cache_dir is None:
            mfcc = self._mfcc()
            return mfcc, _digest(mfcc)
        key = key_of({"version": self.version, "sources": self._sources["audio"], "clips": self._clips})
        return cached(self.cache_dir / f"ravdess-audio-{key}", "content.json", "the MFCC", self._write, self._read)

    def _mfcc(self) -> Tensor:
        return audio.mfcc_of(self._recordings["audio"][clip] for clip in self._clips)

    def _write(self, folder: Path) -> None:
        mfcc = self._mfcc()
        np.save(folder / "mfcc.npy", mfcc.numpy())
        content = {"fingerprint": _digest(mfcc), "clips": [clip.stem("audio") for clip in self._clips]}
        (folder / "content.json").write_text(json.dumps(content, indent=0) + "\n")

    def _read(self, folder: Path) -> tuple[Tensor, str]:
        content = json.loads((folder / "content.json").read_text())
        # A copy-on-write map: torch wants writable memory, and nothing may change the file.
        mfcc = np.load(folder / "mfcc.npy", mmap_mode="c")
        if mfcc.shape != (len(self._clips), audio.COEFFICIENTS, audio.STEPS):
            raise ValueError(f"mfcc.npy is {mfcc.shape}")
        return torch.from_numpy(mfcc), content["fingerprint"]

    @cached_property
    def _video(self) -> tuple[Path, list[video.Seen], str]:
        """The folder with the crops of the clips, what there is to say of each, and the crops' fingerprint."""
        return self.prepare_faces()

    def prepare_faces(self, jobs: int | None = None) -> tuple[Path, list[video.Seen], str]:
        """Make the crops unless they are there, by `jobs` processes (None: one for each core); hours on one core.

        An interrupted call is gone on with. Raises UserError that names the films that cannot be read.
        """
        if self.cache_dir is None:
            raise UserError("dataset.cache_dir=null: crops of faces take gigabytes; name a folder for them")
        options = list(vars(self.crop_options).values())
        content = {"version": self.version, "sources": self._sources["video"], "clips": self._clips, "options": options}
        folder = self.cache_dir / f"ravdess-faces-{key_of(content)}"

        def write(made: Path) -> None:
            part = self.cache_dir / f"{folder.name}.part"  # type: ignore[operator]
            films = {clip.stem("video"): self._recordings["video"][clip] for clip in self._clips}
            video.write_crops(films, self.crop_options, part, jobs)
            journal, crops = video.read_journal(part), part / "crops.npy"
            told = {"fingerprint": sha256(crops), "clips": {name: journal[name] for name in films}}
            (made / "content.json").write_text(json.dumps(told, indent=0) + "\n")
            crops.rename(made / "crops.npy")
            shutil.rmtree(part)

        def read(made: Path) -> tuple[Path, list[video.Seen], str]:
            told = json.loads((made / "content.json").read_text())
            crops = np.load(made / "crops.npy", mmap_mode="r")
            if crops.shape != (len(self._clips), *self.crop_options.clip_shape):
                raise ValueError(f"crops.npy is {crops.shape}")
            return made, [video.Seen(*told["clips"][clip.stem("video")]) for clip in self._clips], told["fingerprint"]

        is_there = (folder / "content.json").exists()
        with nullcontext() if is_there else locked(self.cache_dir / f".{folder.name}.lock"):
            return cached(folder, "content.json", "the crops of faces", write, read)

    def _told(self, digest: str) -> str:
        """Generated data are known by the first word of their fingerprints."""
        return f"generated-{digest}" if self.generated else digest


def _digest(values: Tensor) -> str:
    return digest_of([values.numpy()])
