"""Times RAVDESS: recordings to MFCC, the cache, and training the audio branch beside a plain PyTorch loop.

    python scripts/benchmark_ravdess.py [--folder data/ravdess] [--rounds 15]

Without a folder, preparing is measured on 1,440 made-up recordings of 3.7 s (about the true mean) as 16-bit FLAC.
Targets: MFCC of all in at most 60 s on 2 cores; loaded from the cache in under 1 s; a training step through this
repository (batches of 8 clips, or 32 rows with softhard) in at most 1.5 times that of the plain loop over the same
tensors. The two take turns, block by block, and medians of the ratio within a turn are compared, so that a busy machine
slows them alike. Wall and CPU seconds: on a busy machine the first say more about the others than about this program.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.backbones import IntermediateAttention
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData
from multimodal_loss.datasets.ravdess import SoundClips
from multimodal_loss.datasets.ravdess_files import published_clips
from multimodal_loss.fusion import Unimodal
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.replicate import Recipe, make_replicate

CLIPS, CLASSES, BATCH = 1140, 7, 8
SGD = partial(torch.optim.SGD, lr=0.04, momentum=0.9, dampening=0.9, weight_decay=1e-3)
LOAD = """
import sys, time
from multimodal_loss.datasets.ravdess import RavdessDataset
import torch, torchaudio, soundfile
torch.set_num_threads(1)
wall, cpu = time.perf_counter(), time.process_time()
data = RavdessDataset(sys.argv[1], sys.argv[2], ["audio"]).load(0)
print(time.perf_counter() - wall, time.process_time() - cpu, len(data.train) + len(data.test))
"""


def write_recordings(folder: Path) -> None:
    """1,440 files of 3.7 s: noise whose loudness rises and falls."""
    import soundfile

    rng, seconds, rate = np.random.default_rng(0), 3.7, 48_000
    samples = int(seconds * rate)
    loudness = 0.1 * np.sin(np.linspace(0, np.pi, samples)) ** 2
    for clip in published_clips():
        place = folder / f"Actor_{clip.actor:02}"
        place.mkdir(parents=True, exist_ok=True)
        sound = rng.standard_normal(samples) * loudness
        soundfile.write(place / f"{clip.stem('audio')}.flac", sound, rate, subtype="PCM_16")


def measure_loading(folder: Path, cache: Path, what: str) -> None:
    out = subprocess.run([sys.executable, "-c", LOAD, folder, cache], capture_output=True, text=True, check=True).stdout
    wall, cpu, clips = out.split()
    print(f"{what:42} {int(clips):,} clips   {float(wall):7.2f} s wall   {float(cpu):7.2f} s CPU")


class Plain(nn.Module):
    """The same network as anyone would write it down."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((10, 64), (64, 128), (128, 256), (256, 128)):
            layers += [nn.Conv1d(inputs, outputs, 3), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(2, 1)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean(-1))
        return scores


def plain_stepper(mfcc: Tensor, target: Tensor, softhard: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    network = Plain().train()
    optimizer = SGD(network.parameters())

    def step() -> None:
        index = torch.randint(len(mfcc), (BATCH,))
        x, y = mfcc[index], target[index]
        if softhard:
            share = torch.randint(100, (BATCH, 1, 1)) / 100
            x, y = torch.cat([x, share * x, torch.zeros_like(x), x]), y.repeat(4)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()

    return step


def our_stepper(mfcc: Tensor, target: Tensor, softhard: bool) -> Callable[[], None]:
    dropout = "softhard" if softhard else "none"
    split = SoundClips((mfcc,), target, (1,) * len(mfcc), ("audio",), dropout)
    data = MultimodalData(split, None, split, ("audio",), tuple("0123456"), "benchmark")
    replicate = make_replicate(
        0, 0, 0, data, lambda data: IntermediateAttention(data.feature_shapes, CLASSES), Unimodal
    )
    options = TrainerConfig(batch_size=BATCH, max_epochs=100, min_delta=0.0, patience=100)
    trainer = OrdinaryTrainer(replicate, Recipe(SGD, options, "logits"), torch.device("cpu"))

    def step() -> None:
        trainer.step()

    return step


def compare(softhard: bool, rounds: int, steps: int = 20) -> None:
    generator = torch.Generator().manual_seed(0)
    mfcc = torch.randn(CLIPS, 10, 156, generator=generator)
    target = torch.randint(CLASSES, (CLIPS,), generator=generator)
    contestants = [make(mfcc, target, softhard) for make in (plain_stepper, our_stepper)]
    times: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for place, step in enumerate(contestants):
            start = time.process_time()
            for _ in range(steps):
                step()
            if turn:  # the first warms up
                times[place].append((time.process_time() - start) / steps)
    ratio = statistics.median(ours / plain for plain, ours in zip(*times, strict=True))
    plain, ours = (1e3 * statistics.median(own) for own in times)
    name = "32 rows (softhard)" if softhard else "8 clips"
    print(f"a step of {name:20} plain {plain:6.1f} ms CPU   here {ours:6.1f} ms CPU   ratio {ratio:.2f} (target 1.5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="recordings that are there already")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, one torch thread, load average {load:.1f} before the start")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "recordings"
        if arguments.folder is None:
            write_recordings(folder)
        cache = Path(temporary) / "cache"
        measure_loading(folder, cache, "recordings to MFCC (target 60 s)")
        measure_loading(folder, cache, "loaded from the cache (target 1 s)")
        shutil.rmtree(cache)
    for softhard in (False, True):
        compare(softhard, arguments.rounds)


if __name__ == "__main__":
    main()
