"""Write made-up clips with RAVDESS's names and formats: a face that moves, and a tone; for tests and the quick profile.

    python scripts/make_ravdess_like.py                          # 10 actors, 16 clips each: half a minute
    python scripts/make_ravdess_like.py --actors 24 --clips 60   # as many as there are: 1,440

Train on them with dataset=ravdess_like, and dataset.path=FOLDER after another --folder. The folder gets a file
GENERATED, by which the dataset knows them; what is computed from them says so and is no result of the paper. A folder
that holds just what is asked for is left alone, so that runs on it stay newer than their data.

Neither modality tells all: of an emotion's number, 0 to 7, the picture shows the half (brows and mouth), and the sound
the rest of dividing by 4 (pitch). Together they tell each emotion, one alone four groups of two. Actors differ in
colour, size and voice. H.264 with an AAC track at 30 frames a second, 48 kHz WAV; 2.9 to 4.5 s, as in the real ones.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from multimodal_loss.command import run_script
from multimodal_loss.datasets.ravdess import FOLDS, GENERATED_MARKER
from multimodal_loss.datasets.ravdess_files import Clip, published_clips
from multimodal_loss.errors import UserError, require_number

Reals = NDArray[np.float32]
# Bumped when the same options would give other numbers, so that old files are made again.
GENERATOR_VERSION = 1
FRAMES_PER_SECOND, RATE = 30, 48_000
PITCHES = (220, 330, 495, 740)  # Hz, of what the sound tells
BROWS = (-0.5, 0.5)  # slope of the brows, and
MOUTHS = (-0.35, 0.35)  # curve of the mouth: two of each make the four groups of what the picture tells


def chosen_clips(actors: int, clips: int) -> list[Clip]:
    """The first `clips` of each of the actors, emotion by emotion in turn; the folds' actors in turn."""
    turns = [fold[i] for i in range(max(map(len, FOLDS))) for fold in FOLDS if i < len(fold)]
    found = []
    for actor in turns[:actors]:
        own = [clip for clip in published_clips() if clip.actor == actor]
        number: dict[int, int] = {}
        turn = []
        for clip in own:
            number[clip.emotion] = number.get(clip.emotion, 0) + 1
            turn.append((number[clip.emotion], clip.emotion))
        found += [own[i] for i in sorted(range(len(own)), key=turn.__getitem__)[:clips]]
    return found


def frames(clip: Clip, number: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """`number` pictures (size, size, 3): skin, eyes, brows and a mouth that opens and closes, over a background."""
    actor = np.random.default_rng(clip.actor)
    skin, ground = actor.uniform(140, 230, 3), actor.uniform(20, 110, 3)
    scale, (left, top) = actor.uniform(0.9, 1.1), rng.uniform(-0.08, 0.08, 2)
    shown = (clip.emotion - 1) // 2
    brow, curve = BROWS[shown % 2], MOUTHS[shown // 2]
    speed, phase = rng.uniform(2, 4), rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    for i in range(number):
        sway = 0.04 * np.sin(phase + 0.1 * i)
        x, y = (axis[None, :] - left - sway) / scale, (axis[:, None] - top) / scale
        picture = np.broadcast_to(ground, (size, size, 3)).copy()
        picture[(x / 0.72) ** 2 + (y / 0.92) ** 2 < 1] = skin
        side = np.abs(x)
        picture[(side - 0.3) ** 2 + (y + 0.2) ** 2 < 0.09**2] = 25
        picture[(np.abs(side - 0.3) < 0.2) & (np.abs(y + 0.48 - brow * (side - 0.3)) < 0.06)] = 40
        opened = 0.07 + 0.07 * np.abs(np.sin(phase + 2 * np.pi * speed * i / FRAMES_PER_SECOND))
        picture[(side < 0.36) & (np.abs(y - 0.5 - curve * (0.7 - 6 * x**2) * 0.6) < opened)] = (150, 30, 40)
        yield np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


def sound(clip: Clip, seconds: float, rng: np.random.Generator) -> Reals:
    """(T,) in [-1, 1] at 48 kHz: syllables of a tone with overtones, and noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    voice = np.random.default_rng(clip.actor).uniform(0.94, 1.06)
    pitch = PITCHES[(clip.emotion - 1) % 4] * voice * (1 + 0.02 * np.sin(2 * np.pi * rng.uniform(3, 6) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 6)), 0, 1)
    samples: Reals = (0.2 * tone * syllables + 0.01 * rng.standard_normal(len(time))).astype(np.float32)
    return samples


def write_clip(folder: Path, clip: Clip, size: int, seed: int) -> None:
    """Both files of a clip, each as a whole or not at all."""
    rng = np.random.default_rng([seed, *clip])
    number = int(rng.integers(88, 136))
    samples = sound(clip, number / FRAMES_PER_SECOND, rng)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f".{clip.stem(kind)}-{os.getpid()}" for kind in ("audio", "video")}
    soundfile.write(paths["audio"], samples, RATE, subtype="PCM_16", format="WAV")
    with av.open(paths["video"], "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        picture.width = picture.height = size
        picture.pix_fmt = "yuv420p"
        picture.options = {"preset": "ultrafast", "threads": "1"}
        voice = container.add_stream("aac", rate=RATE, layout="mono")
        for array in frames(clip, number, size, rng):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(picture.encode())
        for start in range(0, len(samples), 1024):
            part = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = RATE, start, Fraction(1, RATE)
            container.mux(voice.encode(part))
        container.mux(voice.encode())
    paths["audio"].replace(folder / f"{clip.stem('audio')}.wav")
    paths["video"].replace(folder / f"{clip.stem('video')}.mp4")


def write_like(folder: Path, actors: int = 10, clips: int = 16, size: int = 128, seed: int = 0) -> None:
    """Write the first clips of each of so many actors, of the folds in turn; leaves alone a folder that has them.

    `size`: side of the pictures in pixels, even. Raises UserError for bad numbers and where real files lie, OSError for
    a folder that cannot be written.
    """
    for key, value, most in (("actors", actors, 24), ("clips", clips, 60), ("size", size, 1280)):
        require_number(f"--{key}", value, positive=True, integer=True)
        if value > most or (key == "size" and value % 2) or (key == "actors" and value < len(FOLDS)):
            raise UserError(f"--{key}={value}: must be at most {most}; actors at least {len(FOLDS)}, a size even")
    require_number("--seed", seed, integer=True)
    marker = folder / GENERATED_MARKER
    if not marker.exists() and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds files that were not generated; give another --folder")
    wanted = chosen_clips(actors, clips)
    command = f"scripts/make_ravdess_like.py --actors {actors} --clips {clips} --size {size} --seed {seed}"
    finished = f"Made by {command} (version {GENERATOR_VERSION}): not RAVDESS.\n"
    if marker.exists() and marker.read_text() == finished and all(path.exists() for path in _paths(folder, wanted)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The files are marked as generated from the first on, and as complete after the last.
    marker.write_text(f"Being made by {command}: not RAVDESS, and not complete.\n")
    kept = set(_paths(folder, wanted))
    for path in folder.glob("Actor_*/*"):  # of other options
        if path not in kept:
            path.unlink()
    for clip in wanted:
        write_clip(folder / f"Actor_{clip.actor:02}", clip, size, seed)
    marker.write_text(finished)


def _paths(folder: Path, clips: list[Clip]) -> Iterator[Path]:
    for clip in clips:
        for kind, suffix in (("audio", "wav"), ("video", "mp4")):
            yield folder / f"Actor_{clip.actor:02}" / f"{clip.stem(kind)}.{suffix}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/ravdess-like"))
    parser.add_argument("--actors", type=int, default=10, help="of 24, of the five folds in turn")
    parser.add_argument("--clips", type=int, default=16, help="of each actor, of 60")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    how = (arguments.actors, arguments.clips, arguments.size, arguments.seed)
    code = run_script(arguments.folder, lambda: write_like(arguments.folder, *how))
    if not code:
        print(arguments.folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
