"""Clips of EPIC-KITCHENS that one core decodes and crops in a second, from the store and in other ways.

    python scripts/benchmark_epic.py

A clip is 16 RGB frames, 16 of u and 16 of v, JPEG files of 456 x 256 pixels, here generated ones of the real files'
mean size (19 and 9 kB). Each way ends in the same float32 tensors (3, 16, 224, 224) and (2, 16, 224, 224), which is
checked. "ours, bytes" is what a process that decodes has to do, since bytes become numbers on the device that trains;
"ours, as batches" is all of it, and stacking, by the iterator that training uses.
All files are in memory (page cache), one thread; the rounds of the ways take turns, and the best one counts, as other
programs only ever slow it down. OpenCV is compared where it is installed: pip install opencv-python-headless.
Target: at least as fast as the fastest other way.
"""

import argparse
import io
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from multimodal_loss.datasets import Draws
from multimodal_loss.datasets.epic import ClipSplit, View
from multimodal_loss.datasets.frame_store import FrameStore, StoreWriter, check

WIDTH, HEIGHT, CROP, FRAMES = 456, 256, 224, 16
CLIPS_PER_SECOND = 30  # of a fast GPU
BATCH = 4
# Noise and JPEG quality that give the real files' mean sizes.
KINDS = {"rgb": ("RGB", 3.5, 75), "u": ("L", 1.0, 60), "v": ("L", 1.0, 60)}
Clip = tuple[Tensor, Tensor]
Way = Callable[[int, dict[str, View]], Clip]


def picture(rng: np.random.Generator, stream: str) -> bytes:
    """Smooth colours with some noise."""
    mode, noise, quality = KINDS[stream]
    small = rng.integers(0, 256, (20, 34, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)
    noisy = np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write(folder: Path, clips: int) -> ClipSplit:
    """The same frames in a store and as loose files <clip>/<stream>/<frame>.jpg."""
    rng, key = np.random.default_rng(0), 0
    with StoreWriter(folder / "frames") as writer:
        for clip in range(clips):
            for stream in KINDS:
                (folder / f"{clip}/{stream}").mkdir(parents=True)
                for frame in range(FRAMES):
                    jpeg = picture(rng, stream)
                    writer.add(key, jpeg, check(jpeg))
                    key += 1
                    (folder / f"{clip}/{stream}/{frame}.jpg").write_bytes(jpeg)
        writer.commit()
    rows = np.arange(key).reshape(clips, len(KINDS), FRAMES)
    frames = {"rgb": rows[:, :1], "flow": rows[:, 1:]}
    names = tuple(map(str, range(clips)))
    store = FrameStore.open(folder / "frames")
    return ClipSplit(torch.zeros(clips, dtype=torch.long), names, store, frames, CROP, "independent")


def ways(folder: Path, split: ClipSplit) -> dict[str, Way]:
    """By name, a function of a clip's number and views."""
    found: dict[str, Way] = {}

    def ours_in_bytes(clip: int, views: dict[str, View]) -> Clip:
        rgb, flow = split.sample(clip, DRAWS.generator(clip))
        return rgb, flow

    def ours(clip: int, views: dict[str, View]) -> Clip:
        rgb, flow = split.values(tuple(x[None] for x in split.sample(clip, DRAWS.generator(clip))))
        return rgb[0], flow[0]

    found["ours, bytes"] = ours_in_bytes
    found["ours"] = ours

    try:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
    except ImportError:
        print("torchvision is not installed: left out")
    else:

        def by_torchvision(clip: int, views: dict[str, View]) -> Clip:
            def stream(name: str) -> Tensor:
                mode = ImageReadMode.RGB if name == "rgb" else ImageReadMode.GRAY
                view, frames = views["rgb" if name == "rgb" else "flow"], []
                for frame in range(FRAMES):
                    whole = decode_jpeg(read_file(f"{folder}/{clip}/{name}/{frame}.jpg"), mode)
                    frames.append(whole[:, view.top : view.top + CROP, view.left : view.left + CROP])
                stacked = torch.stack(frames, dim=1)
                return (stacked.flip(-1) if view.mirrored else stacked).float().mul_(2 / 255).sub_(1)

            return stream("rgb"), torch.cat([stream("u"), stream("v")])

        found["torchvision decode_jpeg, loose files"] = by_torchvision

    def by_arrays(read: Callable[[str, bool], NDArray[np.uint8]]) -> Way:
        def way(clip: int, views: dict[str, View]) -> Clip:
            def stream(name: str) -> Tensor:
                view, frames = views["rgb" if name == "rgb" else "flow"], []
                for frame in range(FRAMES):
                    whole = read(f"{folder}/{clip}/{name}/{frame}.jpg", name == "rgb")
                    frames.append(whole[view.top : view.top + CROP, view.left : view.left + CROP])
                stacked = np.stack([frame[:, ::-1] for frame in frames] if view.mirrored else frames)
                values = torch.from_numpy(stacked).to(torch.float32).mul_(2 / 255).sub_(1)
                return values.permute(3, 0, 1, 2).contiguous() if name == "rgb" else values

            return stream("rgb"), torch.stack([stream("u"), stream("v")])

        return way

    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed: left out")
    else:
        cv2.setNumThreads(1)

        def by_opencv(path: str, colour: bool) -> NDArray[np.uint8]:
            picture: NDArray[np.uint8] = cv2.imread(path, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
            return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if colour else picture

        found["OpenCV imread, loose files"] = by_arrays(by_opencv)
    found["Pillow, loose files"] = by_arrays(lambda path, colour: np.asarray(Image.open(path)))
    return found


DRAWS = Draws(0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's decoders are about to go
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        split = write(folder, arguments.clips)
        sizes = split.store.entries["size"].reshape(arguments.clips, len(KINDS), FRAMES).mean(axis=(0, 2)) / 1e3
        print(f"{arguments.clips} clips, {sizes[0]:.1f} kB an RGB frame, {sizes[1:].mean():.1f} kB a u or v")
        views = [split._views(clip, DRAWS.generator(clip)) for clip in range(arguments.clips)]
        chosen = ways(folder, split)
        expected = chosen["ours"](0, views[0])
        for name, way in chosen.items():
            if name != "ours, bytes":
                for ours, theirs in zip(expected, way(0, views[0]), strict=True):
                    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
        best = {name: [math.inf] * arguments.clips for name in chosen}
        batches = math.inf
        for _ in range(arguments.rounds):
            start = time.process_time()
            for _ in split.batches(None, BATCH, torch.device("cpu"), DRAWS):
                pass
            batches = min(batches, time.process_time() - start)
            for name, way in chosen.items():
                for clip in range(arguments.clips):
                    start = time.process_time()
                    way(clip, views[clip])
                    best[name][clip] = min(best[name][clip], time.process_time() - start)
    print(f"{os.cpu_count()} cores, best of {arguments.rounds} rounds, one thread, time on the processor\n")
    print(f"{'':38}  ms a clip   clips a second and core   cores for {CLIPS_PER_SECOND} clips a second")
    means = {name: sum(seconds) / len(seconds) for name, seconds in best.items()}
    means = {"ours, as batches": batches / arguments.clips, **means}
    for name, seconds in means.items():
        cores = CLIPS_PER_SECOND * seconds
        print(f"{name:38}  {1e3 * seconds:9.1f}   {1 / seconds:23.0f}   {math.ceil(cores):5} ({cores:.2f})")
    others = {name: seconds for name, seconds in means.items() if not name.startswith("ours")}
    fastest = min(others, key=lambda name: others[name])
    print(f"\nours / {fastest}: {others[fastest] / means['ours']:.2f} times as fast, in bytes ", end="")
    print(f"{others[fastest] / means['ours, bytes']:.2f} times")


if __name__ == "__main__":
    main()
