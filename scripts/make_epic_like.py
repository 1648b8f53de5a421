"""Write made-up clips in exactly the formats of EPIC-KITCHENS-100, for `make quick-table-4`, tests and benchmarks.

    python scripts/make_epic_like.py --folder data/epic-like                 # 48 x 40 pixels: small, seconds
    python scripts/get_epic.py --folder data/epic-like --flow-index both     # then as with the real tars
    python scripts/make_epic_like.py --folder FOLDER --width 456 --height 256

The folder gets both annotation files with the official columns, one tar a video and modality with the official names,
of EPIC-KITCHENS-55 (P01_01) and of the extension (P01_101), and a file GENERATED, by which the dataset knows them: what
is computed from them says so and is no result of the paper.

In each frame lies one disc. RGB shows its colour, at a place of its own in every frame, so that nothing seems to move;
flow shows how it moves, and not what it is. Of a verb's three bits RGB gives the first two and flow the last two: each
alone can be right in half of the clips, both together in all. One clip in ten has pictures of noise, another one in ten
a flow of noise. The motions (up, down, sideways, none) are the same in a mirror.
"""

import argparse
import io
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from multimodal_loss.command import run_script
from multimodal_loss.datasets import epic_annotations as epic
from multimodal_loss.datasets.epic import GENERATED_MARKER, STORE
from multimodal_loss.errors import UserError, require_number

Picture = NDArray[np.uint8]

VIDEOS = {
    "train": ("P01_01", "P01_101", "P08_01", "P22_05", "P22_109"),
    "validation": ("P01_02", "P01_104", "P22_14"),
    "test": ("P01_11", "P08_09", "P22_01"),
}
# Bumped when the same options would give other files, so that old ones are made again.
GENERATOR_VERSION = 1
COLOURS = ((200, 60, 60), (60, 190, 60), (70, 80, 220), (210, 200, 70))
MOTIONS = ((0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0))  # of x and y; images count y downwards
PIXELS_PER_FRAME = 4.0
BOUNDS = {False: 25.0, True: 8.0}  # pixels at the ends of the scale, EPIC-KITCHENS-55 and extension
DILATION = {False: 3, True: 1}  # frames over which a field is computed
SHORTEST, LONGEST = 16, 20  # frames of a clip
UNREADABLE = 0.1
COLUMNS = ["narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"]
COLUMNS += ["start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"]
COLUMNS += ["all_noun_classes"]


def jpeg(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


class Scene:
    """Draws the frames of one video, `width` x `height` pixels."""

    def __init__(self, rng: np.random.Generator, width: int, height: int, extension: bool) -> None:
        self._rng, self._shape, self._extension = rng, (height, width), extension
        self._y, self._x = np.mgrid[:height, :width]
        self._radius = min(width, height) / 4

    def rgb(self, verb: int | None, readable: bool) -> Picture:
        picture = np.clip(self._rng.normal(100, 12, (*self._shape, 3)), 0, 255).astype(np.uint8)
        disc = self._disc()
        if verb is not None:
            picture[disc] = COLOURS[verb >> 1] if readable else self._rng.integers(0, 256, 3)
        return picture

    def flow(self, verb: int | None, readable: bool) -> tuple[Picture, Picture]:
        """u and v of one field."""
        fields = self._rng.normal(0, 0.3, (2, *self._shape))
        disc = self._disc()
        if verb is not None:
            motion = np.array(MOTIONS[verb & 3] if readable else self._rng.normal(0, 0.7, 2))
            motion[0] *= self._rng.choice([-1, 1])
            fields[:, disc] += motion[:, None] * PIXELS_PER_FRAME
        bound = BOUNDS[self._extension]
        grey = np.rint(255 * (DILATION[self._extension] * fields + bound) / (2 * bound))
        u, v = np.clip(grey, 0, 255).astype(np.uint8)
        return u, v

    def _disc(self) -> NDArray[np.bool_]:
        height, width = self._shape
        y, x = self._rng.uniform(self._radius, [height - self._radius, width - self._radius])
        disc: NDArray[np.bool_] = (self._y - y) ** 2 + (self._x - x) ** 2 < self._radius**2
        return disc


def clip_plan(rng: np.random.Generator, clips: int) -> list[tuple[int, int, bool, bool]]:
    """Of each clip in turn: frames, verb, and whether RGB and flow can be read. Every verb in turn, in random order.

    The first one and a short one are in no list of clips, as in the real annotations.
    """
    verbs = np.concatenate([rng.permutation(len(epic.VERBS)) for _ in range(clips // len(epic.VERBS) + 1)])
    plan = [(SHORTEST, 0, True, True)]
    for verb in verbs[:clips].tolist():
        unreadable = rng.random()
        flags = unreadable >= UNREADABLE, not UNREADABLE <= unreadable < 2 * UNREADABLE
        plan.append((int(rng.integers(SHORTEST, LONGEST + 1)), verb, *flags))
    return [*plan, (SHORTEST - 1, 0, True, True)]


def tar_paths(folder: Path, video: str) -> tuple[Path, Path]:
    """Of RGB and of flow."""
    kitchen = folder / "EPIC-KITCHENS" / video.partition("_")[0]
    return kitchen / f"rgb_frames/{video}.tar", kitchen / f"flow_frames/{video}.tar"


def write_video(folder: Path, video: str, clips: int, size: tuple[int, int], seed: int) -> list[dict[str, object]]:
    """Both tars of a video of so many clips; its rows of the annotations."""
    extension = epic.is_extension(video)
    rng = np.random.default_rng([seed, epic.frame_key(video, "rgb", 0) >> 34])
    scene = Scene(rng, *size, extension)
    rows: list[dict[str, object]] = []
    # Of each frame: what is to be seen. One without a clip begins the video and follows each clip.
    script: list[tuple[int | None, bool, bool]] = [(None, True, True)]
    for number, (frames, verb, rgb, flow) in enumerate(clip_plan(rng, clips)):
        start = len(script) + 1
        script += [(verb, rgb, flow)] * frames + [(None, True, True)]
        rows.append(_row(video, number, start, start + frames - 1, verb))
    rgb_path, flow_path = tar_paths(folder, video)
    for path in (rgb_path, flow_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(rgb_path, "w") as archive:
        for number, (clip_verb, readable, _) in enumerate(script, start=1):
            _add(archive, f"frame_{number:010d}.jpg", scene.rgb(clip_verb, readable))
    with tarfile.open(flow_path, "w") as archive:
        fields = [scene.flow(verb, readable) for verb, _, readable in (script if extension else script[::2])]
        for stream, name in enumerate("uv"):
            for number, field in enumerate(fields, start=1):
                _add(archive, f"{name}/frame_{number:010d}.jpg", field[stream])
    return rows


def _add(archive: tarfile.TarFile, name: str, picture: Picture) -> None:
    content = jpeg(picture)
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _row(video: str, number: int, start: int, stop: int, verb: int) -> dict[str, object]:
    rate = 50 if epic.is_extension(video) else 60
    times = {"narration_timestamp": start, "start_timestamp": start, "stop_timestamp": stop}
    row: dict[str, object] = {
        name: f"00:{frame // rate // 60:02d}:{frame / rate % 60:06.3f}" for name, frame in times.items()
    }
    row |= {"narration_id": f"{video}_{number}", "participant_id": video.partition("_")[0], "video_id": video}
    row |= {"start_frame": start, "stop_frame": stop, "verb": epic.VERBS[verb] if verb < len(epic.VERBS) else "mix"}
    row |= {"narration": f"{row['verb']} disc", "verb_class": verb, "noun": "disc", "noun_class": 0}
    return row | {"all_nouns": "['disc']", "all_noun_classes": "[0]"}


def write_like(
    folder: Path, clips: tuple[int, int, int] = (400, 96, 200), size: tuple[int, int] = (48, 40), seed: int = 0
) -> None:
    """Write annotations and tars of about so many clips to train on, to validate and to test, frames of `size` (width,
    height). Leaves alone a folder that has just these; else what get_epic.py stored of earlier ones goes.

    Raises UserError for bad numbers and where real files lie, OSError for a folder that cannot be written.
    """
    for key, number in zip(("--clips",) * 3 + ("--width", "--height"), (*clips, *size), strict=True):
        require_number(key, number, positive=True, integer=True)
    require_number("--seed", seed, integer=True)
    marker = folder / GENERATED_MARKER
    if not marker.exists() and any((folder / name).exists() for name in (*epic.ANNOTATIONS.values(), STORE)):
        raise UserError(f"{folder}: holds annotations or frames that were not generated; give another --folder")
    numbers = f"--clips {' '.join(map(str, clips))} --width {size[0]} --height {size[1]} --seed {seed}"
    finished = f"Made by scripts/make_epic_like.py {numbers} (version {GENERATOR_VERSION}): not EPIC-KITCHENS.\n"
    paths = [path for videos in VIDEOS.values() for video in videos for path in tar_paths(folder, video)]
    if marker.exists() and marker.read_text() == finished and all(path.exists() for path in paths):
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The files are marked as generated from the first on, and as complete after the last.
    marker.write_text("Being made by scripts/make_epic_like.py: not EPIC-KITCHENS, and not complete.\n")
    if (folder / STORE).exists():  # new clips have the old ones' names, but not their pictures
        shutil.rmtree(folder / STORE)
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for (split, videos), total in zip(VIDEOS.items(), clips, strict=True):
        for video in videos:
            made = write_video(folder, video, -(-total // len(videos)), size, seed)
            rows["test" if split == "test" else "train"] += made
    for part, name in epic.ANNOTATIONS.items():
        # Rows that no list takes: another kitchen, another verb.
        other = [_row("P02_01", 0, 1, 60, 0), _row("P01_01" if part == "train" else "P01_11", 10_000, 1, 60, 9)]
        table = pd.DataFrame([*rows[part], *other], columns=COLUMNS)
        table.sort_values("narration_id").to_csv(folder / name, index=False)
    marker.write_text(finished)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/epic-like"))
    parser.add_argument("--clips", type=int, nargs=3, default=(400, 96, 200), metavar=("TRAIN", "VALIDATION", "TEST"))
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--height", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    clips, size = tuple(arguments.clips), (arguments.width, arguments.height)
    code = run_script(arguments.folder, lambda: write_like(arguments.folder, clips, size, arguments.seed))
    if not code:
        print(arguments.folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
