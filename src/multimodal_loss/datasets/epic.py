"""EPIC-KITCHENS-100 as X-Norm used it (Table 4): video clips of three kitchens, eight verbs, RGB and optical flow.

A clip is 16 RGB frames and 16 flow fields, spread over the whole of it; nothing about time is drawn. Frames keep their
size (456 x 256) and are cropped to a square: at random while training, the same for all 16, in the middle otherwise.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_loss.datasets import epic_annotations as epic
from multimodal_loss.datasets.base import Dataset, MultimodalData, require_names
from multimodal_loss.datasets.cache import key_of
from multimodal_loss.datasets.decoding import DecodingSplit
from multimodal_loss.datasets.frame_store import DamagedFrame, FrameStore, Mode, decode
from multimodal_loss.errors import MissingData, UserError, require_choice, require_number

# A folder with a file of this name holds data of scripts/make_epic_like.py.
GENERATED_MARKER = "GENERATED"
STORE = "frames"
MODALITIES = {"rgb": ("rgb",), "flow": ("u", "v")}  # of which streams of frames
CHANNELS = {"rgb": 3, "flow": 2}
AUGMENTATIONS = ("independent", "joint", "none")


class View(NamedTuple):
    """How the frames of a clip are cut: rows and columns before the square, and whether it is mirrored."""

    top: int
    left: int
    mirrored: bool


@dataclass(frozen=True)
class ClipSplit(DecodingSplit):
    """Clips whose frames lie in a store: rgb (3, 16, crop, crop) and flow (2, 16, crop, crop), float32 in [-1, 1].

    A sample is bytes as they come from the decoder, for each modality (streams, 16, crop, crop, channels).

    `frames[modality]` (N, streams, 16): the frames among the store's entries. `names`: of the clips, for messages.
    """

    target: Tensor
    names: tuple[str, ...] = field()  # here they are always there
    store: FrameStore
    frames: dict[str, NDArray[np.int64]]
    crop: int
    augmentation: str

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((CHANNELS[name], epic.FRAMES_PER_CLIP, self.crop, self.crop) for name in self.frames)

    def sample(self, position: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """Raises UserError that names the frame and the clip for one that cannot be decoded."""
        views = self._views(position, generator)
        return tuple(self._clip(position, name, views[name]) for name in self.frames)

    def values(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x / 255 * 2 - 1, channels first."""
        channels_first = (x.permute(0, 1, 5, 2, 3, 4).flatten(1, 2) for x in inputs)
        numbers = (x.to(torch.float32, memory_format=torch.contiguous_format) for x in channels_first)
        return tuple(x.mul_(2 / 255).sub_(1) for x in numbers)

    def _views(self, position: int, generator: torch.Generator | None) -> dict[str, View]:
        """The same for a modality whether the other is there or not: each has its draws, in this order."""
        drawn, views = {}, {}
        if generator is not None and self.augmentation != "none":
            drawn = {name: torch.rand(3, generator=generator, dtype=torch.float64).tolist() for name in MODALITIES}
        for name, rows in self.frames.items():
            _, _, _, _, height, width = self.store.entries[rows[position, 0, 0]].item()
            room = height - self.crop, width - self.crop
            if min(room) < 0:
                raise UserError(
                    f"dataset.crop={self.crop}: {self._describe(rows[position, 0, 0], position)} has {width} x {height}"
                    " pixels; give a smaller crop"
                )
            if drawn:
                top, left, side = drawn["rgb" if self.augmentation == "joint" else name]
                views[name] = View(int(top * (room[0] + 1)), int(left * (room[1] + 1)), side < 0.5)
            else:
                views[name] = View(room[0] // 2, room[1] // 2, False)
        return views

    def _clip(self, position: int, name: str, view: View) -> Tensor:
        rows = self.frames[name][position]
        _, _, _, _, height, width = self.store.entries[rows[0, 0]].item()
        mode: Mode = "RGB" if name == "rgb" else "GRAY"
        picture = np.empty((height, width, 3 if name == "rgb" else 1), np.uint8)  # one for all: fresh memory is slow
        squares = np.empty((*rows.shape, self.crop, self.crop, picture.shape[-1]), np.uint8)
        for place, row in np.ndenumerate(rows):
            try:
                found = decode(self.store.jpeg(row), mode, picture)
                if found.shape != picture.shape:
                    raise DamagedFrame("of another size than the clip's first")
            except DamagedFrame as error:
                raise UserError(f"{self._describe(row, position)}: {error}; {self._cure}") from error
            squares[place] = found[view.top : view.top + self.crop, view.left : view.left + self.crop]
        if view.mirrored:
            squares = np.ascontiguousarray(squares[..., ::-1, :])
            if name == "flow" and self.augmentation == "joint":
                np.subtract(255, squares[0], out=squares[0])  # what moved left moves right; X-Norm leaves it
        return torch.from_numpy(squares)

    @property
    def _cure(self) -> str:
        command = f"python scripts/get_epic.py --folder {self.store.folder.parent} --check"
        return f"{command} replaces it where the tar, or the frame as a loose file, is there; then start again"

    def _describe(self, row: int, position: int) -> str:
        path = epic.frame_path(self.store.entries["key"][row])
        return f"{self.store.folder}: {path} of clip {self.names[position]}"


class EpicDataset(Dataset):
    """Reads the annotations and the store of frames that scripts/get_epic.py made.

    Args:
        path: the folder with the two annotation files and the store `frames`.
        modalities: rgb, flow, or both, in this order.
        flow_index: upstream (X-Norm's, which reads another moment of the extension's videos) or fixed.
        crop: height and width in pixels of what is cut out of a frame; no frame may be smaller.
        augmentation: of the training clips: independent (crop and flip drawn for each modality, as X-Norm), joint (the
            same for both, with a mirrored flow's direction), or none (the middle, as for the other splits).
        drop_last_eval: score only whole batches of so many validation and test clips, as X-Norm with 32; None for all.
        generated: whether the clips must come from scripts/make_epic_like.py; None takes what is there.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        path: str | Path,
        modalities: Sequence[str] = tuple(MODALITIES),
        flow_index: str = "upstream",
        crop: int = 224,
        augmentation: str = "independent",
        drop_last_eval: int | None = None,
        generated: bool | None = None,
    ) -> None:
        require_names("modalities", modalities, MODALITIES)
        if tuple(modalities) == tuple(MODALITIES)[::-1]:
            # The exchange goes from the first to the second, and weights (0.3, 0.7) are given in this order.
            raise UserError(f"dataset.modalities={list(modalities)}: the order is {', '.join(MODALITIES)}")
        require_choice("dataset.flow_index", flow_index, epic.FLOW_INDICES)
        require_choice("dataset.augmentation", augmentation, AUGMENTATIONS)
        require_number("dataset.crop", crop, positive=True, integer=True)
        if drop_last_eval is not None:
            require_number("dataset.drop_last_eval", drop_last_eval, positive=True, integer=True)
        self.path, self.modalities, self.flow_index = Path(path), tuple(modalities), flow_index
        self.crop, self.augmentation, self.drop_last_eval = crop, augmentation, drop_last_eval
        self.generated = (self.path / GENERATED_MARKER).is_file()
        self._wanted = self.generated if generated is None else generated
        self._data: MultimodalData | None = None

    def load(self, fold: int | None = None) -> MultimodalData:
        """The three splits; the same for every replicate.

        Raises MissingData for files or frames that are not there, UserError for clips that are not the released ones,
        for a store that cannot be read, and for a split without clips.
        """
        if self._data is None:
            self.require_files()
            splits = epic.read_clips(self.path)
            if not self.generated:
                epic.require_published(self.path, splits)
            store = FrameStore.open(self.path / STORE)
            parts = {name: self._split(name, clips, store) for name, clips in splits.items()}
            self._data = MultimodalData(
                train=parts["train"],
                validation=parts["validation"],
                test=parts["test"],
                modalities=self.modalities,
                classes=epic.VERBS,
                fingerprint=self._digest(splits, parts),
            )
        return self._data

    def fingerprint(self) -> str:
        """Of the clips, of how they are cut, and of the checksums that the store keeps of their frames."""
        return self.load().fingerprint

    def require_files(self) -> None:
        """Raise MissingData unless annotations and store are there, UserError for generated ones in the place of real
        ones and the other way round. Does not look into them.
        """
        if not self.path.exists():
            raise MissingData(f"{self.path} does not exist")
        for name in (*epic.ANNOTATIONS.values(), f"{STORE}/index.npy"):
            if not (self.path / name).is_file():
                raise MissingData(f"{self.path / name} does not exist")
        if self.generated != self._wanted:
            raise UserError(
                f"{self.path}: {'holds' if self.generated else 'does not hold'} generated data (file"
                f" {GENERATED_MARKER}), but dataset.generated={str(self._wanted).lower()}; give another dataset.path,"
                f" or dataset.generated={str(self.generated).lower()}"
            )

    def _split(self, name: str, clips: Sequence[epic.Clip], store: FrameStore) -> ClipSplit:
        if name != "train" and self.drop_last_eval is not None:
            clips = clips[: len(clips) // self.drop_last_eval * self.drop_last_eval]
        if not clips:
            raise UserError(f"{self.path}: no {name} clips; try a smaller dataset.drop_last_eval")
        rgb, flow = epic.sampled_frames(clips, self.flow_index)
        frames = {}
        for modality in self.modalities:
            numbers = rgb if modality == "rgb" else flow
            keys = np.stack([epic.frame_keys(clips, stream, numbers) for stream in MODALITIES[modality]], axis=1)
            frames[modality] = store.rows(keys)
            if (absent := keys[frames[modality] < 0]).size:
                raise MissingData(
                    f"{store.folder}: {len(np.unique(absent)):,} {modality} frames of {name} clips missing,"
                    f" {epic.frame_path(absent[0])} ... (get_epic.py --flow-index {self.flow_index} stores them)"
                )
        target = torch.tensor([clip.verb for clip in clips])
        names = tuple(clip.narration for clip in clips)
        return ClipSplit(target, names, store, frames, self.crop, self.augmentation)

    def _digest(self, splits: dict[str, list[epic.Clip]], parts: dict[str, ClipSplit]) -> str:
        digest = hashlib.sha256()
        for name, split in parts.items():
            digest.update(epic.as_released(splits[name][: len(split)]))
            for rows in split.frames.values():
                used = split.store.entries[rows]
                for column in ("key", "size", "crc"):
                    digest.update(np.ascontiguousarray(used[column]).data)
        options = [self.modalities, self.flow_index, self.crop, self.augmentation, self.drop_last_eval]
        key = key_of([digest.hexdigest(), *options])
        return f"generated-{key}" if self.generated else key
