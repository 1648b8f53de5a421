"""Videos of a speaking face to 15 crops, as the released code of Chumachenko, Iosifidis and Gabbouj (ICPR 2022) makes
them: of 3.6 s at 30 frames a second every seventh or eighth, in each the largest face that MTCNN finds, 224 x 224.

Where that code would fail, this goes on, and says so in its report: a box that reaches beyond the picture is cut off at
its edge, and a frame before the first face takes that face's box. (There it takes the previous clip's.)
"""

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_loss.datasets.ravdess_files import Recording
from multimodal_loss.errors import MissingData, UserError

Picture = NDArray[np.uint8]  # (H, W, 3), RGB
Box = tuple[int, int, int, int]  # left, top, right, bottom

FRAMES, SIDE = 15, 224
WINDOW = 108  # frames: 3.6 s at 30 a second, though the films have 29.97
LARGEST_SIDE = 4096  # of a picture: those of RAVDESS are 1280 x 720
HOW_TO_GET_MTCNN = "pip install --no-deps facenet-pytorch==2.6.0 (make data-ravdess does), or set dataset.faces=none"


class Seen(NamedTuple):
    """What there is to say of a clip: frames without a face of their own, and frames that the film lacks."""

    without_face: int
    lacking: int


def frame_numbers(count: int, window: str) -> list[int]:
    """The 15 frames, in the `first` 108 or in a `centred` window of a film of `count` frames; some may be beyond it."""
    start = max((count - WINDOW) // 2, 0) if window == "centred" else 0
    return [start + i * WINDOW // FRAMES + WINDOW // (2 * FRAMES) for i in range(FRAMES)]


def read_frames(recording: Recording, window: str) -> list[Picture]:
    """The chosen frames that the film has, at most 15. Raises UserError, naming the file, for what is no film."""
    import av

    content = recording.read()
    try:
        wanted = set(frame_numbers(_count(content) if window == "centred" else 0, window))
        pictures: list[Any] = []
        with av.open(io.BytesIO(content), "r") as film:
            for number, frame in enumerate(film.decode(video=0)):
                if max(frame.width, frame.height) > LARGEST_SIDE:
                    raise ValueError(f"its pictures are {frame.width} x {frame.height}")
                if number in wanted:
                    pictures.append(frame.to_ndarray(format="rgb24"))
                if number >= max(wanted):
                    break
    except (av.error.FFmpegError, ValueError, IndexError, EOFError, MemoryError) as error:
        raise UserError(f"{recording}: not a film that can be read ({error}); {recording.cure}") from error
    if not pictures:
        raise UserError(f"{recording}: the film has no pictures; {recording.cure}")
    return pictures


def _count(content: bytes) -> int:
    import av

    with av.open(io.BytesIO(content), "r") as film:
        return sum(1 for _ in film.decode(video=0))


def crops_of(
    recording: Recording,
    window: str,
    short_clips: str,
    boxes_of: Callable[[Sequence[Picture]], Sequence[Box | None]],
    side: int = SIDE,
) -> tuple[Picture, Seen]:
    """(15, side, side, 3) uint8 RGB. `boxes_of`: the box of the face in each picture, None where there is none; a frame
    without one takes the box before it, and a clip without any the whole picture.

    Frames that the film lacks, which are at the end, are black, or with `short_clips` "repeat" the last crop again.
    """
    pictures = read_frames(recording, window)
    found = list(boxes_of(pictures))
    height, width = pictures[0].shape[:2]
    box = next((one for one in found if one is not None), (0, 0, width, height))
    crops = np.zeros((FRAMES, side, side, 3), np.uint8)
    for place, (picture, own) in enumerate(zip(pictures, found, strict=True)):
        box = box if own is None else own
        crops[place] = crop(picture, box, side)
    if short_clips == "repeat":
        crops[len(pictures) :] = crops[len(pictures) - 1]
    return crops, Seen(sum(one is None for one in found), FRAMES - len(pictures))


def crop(picture: Picture, box: Box, side: int = SIDE) -> Picture:
    """The part of a picture in a box, resized to (side, side, 3) as OpenCV does by default: bilinear, not smoothed."""
    left, top, right, bottom = box
    part = torch.from_numpy(picture[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)].copy())
    if not part.numel():
        return np.zeros((side, side, 3), np.uint8)
    values = part.permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(values, (side, side), mode="bilinear", align_corners=False)
    return resized[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


# --- detectors


def whole_picture(pictures: Sequence[Picture]) -> list[Box | None]:
    return [(0, 0, picture.shape[1], picture.shape[0]) for picture in pictures]


def mtcnn_boxes(pictures: Sequence[Picture]) -> list[Box | None]:
    """The largest face of each picture, its corners rounded."""
    boxes, _ = _mtcnn().detect(torch.from_numpy(np.stack(pictures)))
    return [None if own is None else tuple(round(float(corner)) for corner in own[0]) for own in boxes]  # type: ignore[misc]


@cache
def _mtcnn() -> Any:
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise MissingData(f"the face detector is not installed ({error}); {HOW_TO_GET_MTCNN}") from error
    return MTCNN(image_size=(720, 1280), device=torch.device("cpu"))


DETECTORS = {"mtcnn": mtcnn_boxes, "none": whole_picture}


# --- all clips


@dataclass(frozen=True)
class CropOptions:
    """What the crops depend on beside the films; words as in `RavdessDataset`."""

    window: str
    short_clips: str
    faces: str
    side: int = SIDE

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        return (FRAMES, self.side, self.side, 3)


def write_crops(films: Mapping[str, Recording], options: CropOptions, folder: Path, jobs: int | None = None) -> None:
    """Fill `folder` with crops.npy (N, 15, side, side, 3) and clips.jsonl, a line for each clip once it is made.

    What is there already is kept: a call that was interrupted is gone on with. One process at a time. A film that
    cannot be read does not stop the others; at the end a UserError names all of them. `jobs`: processes; None is one
    for each core.
    """
    if options.faces == "mtcnn":
        _mtcnn()  # or it is missing: now, and not in every process
    folder.mkdir(parents=True, exist_ok=True)
    places = {name: place for place, name in enumerate(films)}
    done = read_journal(folder)
    crops = _opened(folder / "crops.npy", (len(places), *options.clip_shape))
    left = {name: film for name, film in films.items() if name not in done}
    unreadable = []
    with _progress(len(places), len(places) - len(left)) as advance, (folder / "clips.jsonl").open("a") as journal:
        for name, result in _each(left, options, jobs):
            if isinstance(result, UserError):
                unreadable.append(str(result))
            else:
                crops[places[name]], seen = result
                crops.flush()
                journal.write("\n" * (journal.tell() > 0) + json.dumps([name, *seen]))  # behind a line that was cut off
                journal.flush()
            advance()
    if unreadable:
        others = f"; and {len(unreadable) - 1} more: {' | '.join(unreadable[1:])}" if unreadable[1:] else ""
        raise UserError(f"{len(unreadable)} of {len(places)} films cannot be read: {unreadable[0]}{others}")


def read_journal(folder: Path) -> dict[str, Seen]:
    """The clips that are done. A line that an interruption cut off does not count."""
    done = {}
    path = folder / "clips.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            name, without_face, lacking = json.loads(line)
        except ValueError:
            continue
        done[str(name)] = Seen(int(without_face), int(lacking))
    return done


def _each(
    films: Mapping[str, Recording], options: CropOptions, jobs: int | None
) -> Iterator[tuple[str, tuple[Picture, Seen] | UserError]]:
    jobs = min(jobs or os.cpu_count() or 1, max(len(films), 1))
    if jobs == 1:
        for name, film in films.items():
            yield name, _made(film, options)
        return
    # Not forked: the parent's torch has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    try:
        waiting: dict[Future[tuple[Picture, Seen] | UserError], str] = {}
        rest = iter(films.items())
        while True:
            for name, film in rest:
                waiting[pool.submit(_made, film, options)] = name
                if len(waiting) >= 2 * jobs:  # no more crops are held than these
                    break
            if not waiting:
                return
            future = next(as_completed(waiting))
            yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError("a process that looks for faces was ended, perhaps for memory; try fewer --jobs") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _made(film: Recording, options: CropOptions) -> tuple[Picture, Seen] | UserError:
    try:
        return crops_of(film, options.window, options.short_clips, DETECTORS[options.faces], options.side)
    except UserError as error:
        return error


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    torch.set_num_threads(1)


def _opened(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """The array on disk, made where it is not there; zeros take no room before they are written."""
    if path.exists():
        crops = np.load(path, mmap_mode="r+")
        if crops.shape != shape:
            raise UserError(f"{path}: is {crops.shape} where {shape} belongs; delete its folder")
        return crops  # type: ignore[no-any-return]
    temporary = path.with_suffix(".new")
    np.lib.format.open_memmap(temporary, "w+", np.uint8, shape).flush()
    temporary.replace(path)
    return np.load(path, mmap_mode="r+")  # type: ignore[no-any-return]


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        bar = bars.add_task("faces", total=total, completed=done)
        yield lambda: bars.advance(bar)


# --- augmentation


def augmented(crops: Picture, generator: torch.Generator) -> Picture:
    """The clip mirrored in half of the draws and turned by a whole angle from -10 to 10 degrees (bilinear, black
    outside), its 15 frames alike.
    """
    from PIL import Image

    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    angle = int(torch.randint(-10, 11, (), generator=generator))
    if mirrored:
        crops = crops[:, :, ::-1]
    turned = [
        np.asarray(Image.fromarray(np.ascontiguousarray(one)).rotate(angle, Image.Resampling.BILINEAR)) for one in crops
    ]
    return np.stack(turned)


# Of AffectNet, on which EfficientFace was trained: red, green, blue in [0, 1].
AFFECTNET_MEAN = (0.55391, 0.43522, 0.38218)
AFFECTNET_SD = (0.24837, 0.21626, 0.20222)


def as_video(crops: Picture, channel_order: str, pixels: str) -> Tensor:
    """(15, 224, 224, 3) uint8 RGB to (3, 15, 224, 224) float32 in [0, 1]; `pixels` "affectnet": standardised."""
    video = torch.from_numpy(np.array(crops)).permute(3, 0, 1, 2).float() / 255
    if pixels == "affectnet":
        mean, sd = (torch.tensor(one).view(3, 1, 1, 1) for one in (AFFECTNET_MEAN, AFFECTNET_SD))
        video = (video - mean) / sd
    return (video.flip(0) if channel_order == "bgr" else video).contiguous()
