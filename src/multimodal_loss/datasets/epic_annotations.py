"""Which clips of EPIC-KITCHENS-100 X-Norm used, in which split, and which frames of each: from the two official files.

X-Norm (Yin et al., ICMI 2022) released lists of clips. They are the rows of three kitchens and of the eight most
frequent verb classes, split by the rule of `split_clips`; `PUBLISHED` has the sha256 of the released lists.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multimodal_loss.errors import MissingData, UserError

ANNOTATIONS = {"train": "EPIC_100_train.csv", "test": "EPIC_100_validation.csv"}
KITCHENS = ("P01", "P08", "P22")
# Verb classes 0 to 7 of EPIC-KITCHENS-100, its most frequent ones.
VERBS = ("take", "put", "wash", "open", "close", "insert", "turn-on", "cut")
# No official split names these; the other 58 videos of EPIC_100_train.csv are to train on.
VALIDATION_VIDEOS = {
    *("P01_02", "P01_04", "P01_05", "P01_07", "P01_17", "P01_104", "P01_107", "P08_03", "P08_23", "P08_24", "P08_26"),
    *("P22_14", "P22_108", "P22_110", "P22_113"),
}
NOT_LISTED = "P01_105_679"  # left out of the released lists for no visible reason
FRAMES_PER_CLIP = 16
STREAMS = ("rgb", "u", "v")
FLOW_INDICES = ("upstream", "fixed")
_COLUMNS = {
    "narration_id": "str",
    "participant_id": "str",
    "video_id": "str",
    "start_frame": "int64",
    "stop_frame": "int64",
    "verb_class": "int64",
}

Frames = NDArray[np.int64]


class Clip(NamedTuple):
    """Frames `start` to `stop`, both included, of the files on disk, which count from 1; `verb` is its class."""

    narration: str
    kitchen: str
    video: str
    start: int
    stop: int
    verb: int


class Published(NamedTuple):
    """What is known of a released list: clips of each class by kitchen, videos, clips of the extension, sha256."""

    classes: dict[str, tuple[int, ...]]
    videos: int
    extension: int
    sha256: str


PUBLISHED = {
    "train": Published(
        {
            "P01": (1096, 906, 419, 282, 247, 138, 110, 125),
            "P08": (282, 215, 154, 169, 101, 62, 64, 37),
            "P22": (1852, 1968, 1340, 539, 444, 74, 347, 156),
        },
        58,
        4850,
        "642ceb10ceaaef1b178df83941e5392ff5f38af83249d50c7cba0d4597a28f27",
    ),
    "validation": Published(
        {
            "P01": (192, 158, 149, 74, 67, 41, 23, 16),
            "P08": (111, 91, 67, 41, 22, 24, 23, 33),
            "P22": (222, 231, 141, 71, 54, 2, 38, 2),
        },
        15,
        640,
        "d00dc8abc157fe53daa2a67f5f1fddc4bd1bcd42cadef6d62a1ce4381cbf3604",
    ),
    "test": Published(
        {
            "P01": (203, 178, 136, 68, 52, 42, 20, 14),
            "P08": (118, 93, 66, 52, 33, 14, 23, 13),
            "P22": (241, 279, 245, 76, 58, 8, 54, 29),
        },
        15,
        0,
        "6a492d0ebd20c591d6a1b8296a559a8f64a1cdee2be0e9a114f5e7263b4aec64",
    ),
}


def read_clips(folder: Path) -> dict[str, list[Clip]]:
    """The three splits from the two annotation files. Raises MissingData, and UserError for files that are not such."""
    return split_clips(*(_read(folder / name) for name in ANNOTATIONS.values()))


def split_clips(train: Sequence[Clip], test: Sequence[Clip]) -> dict[str, list[Clip]]:
    """From the rows of the two files, in their order.

    Test is not filtered. Of the rest these are not in the released lists: each video's first, those shorter than 16
    frames, and one more.
    """
    splits: dict[str, list[Clip]] = {"train": [], "validation": [], "test": [clip for clip in test if _is_used(clip)]}
    seen: set[str] = set()
    for clip in filter(_is_used, train):
        is_first = clip.video not in seen
        seen.add(clip.video)
        if is_first or clip.stop - clip.start + 1 < FRAMES_PER_CLIP or clip.narration == NOT_LISTED:
            continue
        splits["validation" if clip.video in VALIDATION_VIDEOS else "train"].append(clip)
    return splits


def _is_used(clip: Clip) -> bool:
    return clip.kitchen in KITCHENS and clip.verb < len(VERBS)


def as_released(clips: Iterable[Clip]) -> bytes:
    """A list of clips in the bytes of X-Norm's CSV files."""
    lines = ["narration_id,participant_id,video_id,start_frame,stop_frame,verb"]
    return "\n".join([*lines, *(",".join(map(str, clip)) for clip in clips), ""]).encode()


def counts(clips: Sequence[Clip]) -> Published:
    """What `PUBLISHED` says, counted."""
    found = Counter((clip.kitchen, clip.verb) for clip in clips)
    classes = {kitchen: tuple(found[kitchen, verb] for verb in range(len(VERBS))) for kitchen in KITCHENS}
    extension = sum(is_extension(clip.video) for clip in clips)
    digest = hashlib.sha256(as_released(clips)).hexdigest()
    return Published(classes, len({clip.video for clip in clips}), extension, digest)


def require_published(folder: Path, splits: dict[str, list[Clip]]) -> None:
    """Raise UserError unless all splits are the released lists, row by row; it says what differs."""
    for split, clips in splits.items():
        found, published = counts(clips), PUBLISHED[split]
        if found == published:
            continue
        numbers = [sum(map(sum, one.classes.values())) for one in (found, published)]
        kitchens = [k for k in KITCHENS if found.classes[k] != published.classes[k]]
        where = f", other numbers of clips in {', '.join(kitchens)}" if kitchens else ""
        raise UserError(
            f"{folder}: {numbers[0]:,} {split} clips of {found.videos} videos where {numbers[1]:,} of"
            f" {published.videos} were published{where}; get {' and '.join(ANNOTATIONS.values())} of the official"
            " release again"
        )


def is_extension(video: str) -> bool:
    """Recorded for EPIC-KITCHENS-100 (P01_101), at 50 frames a second, and not for EPIC-KITCHENS-55 (P01_01), at 60."""
    return len(video.partition("_")[2]) == 3


def sampled_frames(clips: Sequence[Clip], flow_index: str) -> tuple[Frames, Frames]:
    """The numbers of the RGB and of the flow files of each clip, twice (N, 16): floor(linspace(first, last, 16)).

    Videos of EPIC-KITCHENS-55 have a flow field for every other frame, those of the extension one for each. X-Norm
    halves the frame number everywhere (`upstream`), and so reads another moment of the extension's; `fixed` does not.
    """
    start = np.array([clip.start for clip in clips], np.int64)
    stop = np.array([clip.stop for clip in clips], np.int64)
    halved = np.array([flow_index == "upstream" or not is_extension(clip.video) for clip in clips])
    flow = (np.where(halved, (one + 1) // 2, one) for one in (start, stop))
    return _spread(start, stop), _spread(*flow)


def _spread(start: Frames, stop: Frames) -> Frames:
    steps = np.arange(FRAMES_PER_CLIP)
    frames: Frames = start[:, None] + steps * (stop - start)[:, None] // (FRAMES_PER_CLIP - 1)
    return frames


# --- frames as numbers


def frame_keys(clips: Sequence[Clip], stream: str, frames: Frames) -> NDArray[np.uint64]:
    """A number for each frame (N, 16) of a stream: of the video, the stream and the file's number."""
    videos = np.array([_video_number(clip.video) for clip in clips], np.int64)
    return ((videos[:, None] * 4 + STREAMS.index(stream)) * 2**32 + frames).astype(np.uint64)


def frame_key(video: str, stream: str, frame: int) -> int:
    return (_video_number(video) * 4 + STREAMS.index(stream)) * 2**32 + frame


def frame_of(key: int) -> tuple[str, str, int]:
    """Video, stream and number of the file."""
    upper, frame = divmod(int(key), 2**32)
    video, stream = divmod(upper, 4)
    return f"P{video // 1000:02d}_{video % 1000:02d}", STREAMS[stream], frame


def frame_path(key: int) -> str:
    """Where a loose frame lies below the folder of all kitchens."""
    video, stream, frame = frame_of(key)
    folder = f"{video.partition('_')[0]}/{'rgb' if stream == 'rgb' else 'flow'}_frames/{video}"
    return f"{folder}/{'' if stream == 'rgb' else stream + '/'}frame_{frame:010d}.jpg"


def _video_number(video: str) -> int:
    kitchen, _, number = video[1:].partition("_")
    return int(kitchen) * 1000 + int(number)


def _read(path: Path) -> list[Clip]:
    cure = "get the official file again"
    try:
        table = pd.read_csv(path, usecols=list(_COLUMNS), dtype=_COLUMNS, keep_default_na=False)
    except FileNotFoundError as error:
        raise MissingData(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # of pandas' parser, too
        raise UserError(f"{path}: not an annotation file ({' '.join(str(error).split())}); {cure}") from error
    table = table[list(_COLUMNS)]
    is_video = table["video_id"].str.fullmatch(r"P\d\d_1?\d\d") & (table["video_id"].str[:3] == table["participant_id"])
    wrong = ~is_video | table["narration_id"].duplicated() | (table["verb_class"] < 0)
    wrong |= (table["start_frame"] < 1) | (table["stop_frame"] < table["start_frame"]) | (table["stop_frame"] >= 2**31)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        told = ", ".join(f"{name} {value}" for name, value in table.iloc[row].items())
        raise UserError(f"{path}, row {row + 1} cannot be, or is there twice ({told}); {cure}")
    table = table[table["participant_id"].isin(KITCHENS)]  # the others cost time
    return [Clip(*row) for row in table.itertuples(index=False, name=None)]
