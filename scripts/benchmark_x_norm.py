"""What training X-Norm takes: memory by option, work, and from these the hours and the money of Table 4.

    python scripts/benchmark_x_norm.py                       # a minute on one core; no GPU, no data
    python scripts/benchmark_x_norm.py --sustained 40 --price 2.5

Nothing is computed: tensors without values go through a training step (forward, backward, clipping; AdamW's moments
lie beside them) of 32 clips of 16 x 224 x 224, and every storage that is alive counts. That is what an allocator must
hold at least; a GPU also takes what its convolutions work in, what fragmentation wastes, and about 0.5 GB for CUDA
itself, for which 2 GB are left in what fits. "Stored" is what lies between forward and backward.

Work is counted by torch's FlopCounterMode in the same step (a multiply and an add are two), which sees convolutions and
matrix products. Hours are work over a sustained rate that is an assumption, as are epochs and price: measure one epoch
on your GPU before you pay for all of them.
"""

import argparse
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from multimodal_loss.backbones import XNorm

SHAPES = ((3, 16, 224, 224), (2, 16, 224, 224))
BATCH, CLASSES = 32, 8
TRAIN, VALIDATION, TEST = 11_127, 1_893, 2_115  # clips
FUSED, SINGLE, SEEDS = 7, 2, 5  # rows of Table 4
GPU_GB = 24  # the paper's Titan RTX


class Alive(TorchDispatchMode):
    """Bytes of all storages that exist, now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self._note(one.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def pools_as_on_cuda() -> Iterator[None]:
    """Pools keep bfloat16, as autocast leaves them on CUDA; on a CPU it makes them float32."""
    ordinary = F.max_pool3d

    def pool(*args: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            pooled: Tensor = ordinary(*args)
            return pooled

    with mock.patch.object(F, "max_pool3d", pool):
        yield


@dataclass(frozen=True)
class Option:
    title: str
    streams: Sequence[int] = (0, 1)
    exchange: str = "sequential"
    amp: bool = False
    recompute: bool = False
    accumulate: int = 1


OPTIONS = (
    Option("float32"),
    Option("trainer.accumulate=2", accumulate=2),
    Option("trainer.accumulate=4", accumulate=4),
    Option("trainer.amp=true", amp=True),
    Option("trainer.amp=true trainer.accumulate=2", amp=True, accumulate=2),
    Option("backbone.recompute=true", recompute=True),
    Option("backbone.recompute=true trainer.amp=true", amp=True, recompute=True),
    Option("backbone.exchange=none", exchange="none"),
    Option("one modality (RGB)", streams=(0,)),
    Option("one modality (flow)", streams=(1,)),
)


@dataclass(frozen=True)
class Cost:
    peak: int  # bytes, of the whole step
    stored: int  # bytes, of one part of a batch, between forward and backward
    work: int  # FLOP, of one step


def cost(option: Option) -> Cost:
    """One training step of 32 clips, once for the memory and once for the work: the counter of work keeps tensors."""
    alive, counter = Alive(), FlopCounterMode(display=False)
    stored = step(option, alive)
    step(option, counter)
    return Cost(alive.most, stored, counter.get_total_flops())


def step(option: Option, watch: Alive | FlopCounterMode) -> int:
    """Train one batch under `watch`; the bytes stored for a part of it."""
    stored = 0
    with FakeTensorMode(), watch, pools_as_on_cuda():
        shapes = [SHAPES[m] for m in option.streams]
        network = XNorm(shapes, CLASSES, exchange=option.exchange, recompute=option.recompute).train()
        parameters = list(network.parameters())
        moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]  # AdamW's
        inputs, target = [torch.empty(BATCH, *shape) for shape in shapes], torch.zeros(BATCH, dtype=torch.long)
        for x in zip(*(one.tensor_split(option.accumulate) for one in [*inputs, target]), strict=True):
            before = getattr(watch, "now", 0)
            with torch.autocast("cpu", torch.bfloat16) if option.amp else nullcontext():
                scores = network(x[:-1])
            loss = F.cross_entropy(scores.sum(1), x[-1])  # next to the network any loss is small
            stored = getattr(watch, "now", 0) - before
            loss.backward()
            del scores, loss
        nn.utils.clip_grad_norm_(parameters, 1.0)
        del moments
    return stored


def forward_work(streams: Sequence[int]) -> int:
    """FLOP of one clip."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes = [SHAPES[m] for m in streams]
        XNorm(shapes, CLASSES).eval()([torch.empty(1, *shape) for shape in shapes])
    return int(counter.get_total_flops())


def table_work(training: dict[tuple[int, ...], int], epochs: int) -> tuple[float, float]:
    """FLOP of the whole table, and of one fused training; one pass over the test clips is in it."""

    def of_run(streams: tuple[int, ...]) -> float:
        forward = forward_work(streams)
        return epochs * (TRAIN * training[streams] / BATCH + VALIDATION * forward) + TEST * forward

    fused = of_run((0, 1))
    return SEEDS * (FUSED * fused + of_run((0,)) + of_run((1,))), fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sustained", type=float, nargs="+", default=[6.5, 20.0, 40.0], help="TFLOP/s of a GPU")
    parser.add_argument("--price", type=float, nargs="+", default=[0.5, 1.5, 2.5], help="dollars an hour of it")
    parser.add_argument("--epochs", type=int, nargs="+", default=[12, 50], help="epochs of a training")
    arguments = parser.parse_args()
    print(f"X-Norm, one training step of {BATCH} clips of 16 x 224 x 224, parameters and AdamW included")
    print(f"{'':44}{'peak':>9}{'stored':>10}{'work':>14}   a {GPU_GB} GB GPU")
    training: dict[tuple[int, ...], int] = {}
    for option in OPTIONS:
        found = cost(option)
        training.setdefault(tuple(option.streams), found.work)
        fits = "fits" if found.peak + 2e9 < GPU_GB * 1e9 else "too small"
        numbers = f"{found.peak / 1e9:6.1f} GB{found.stored / 1e9:7.1f} GB{found.work / 1e12:9.2f} TFLOP"
        print(f"{option.title:44}{numbers}   {fits}", flush=True)
    print(f"\nForward, one clip, both modalities: {forward_work((0, 1)) / 2e9:.1f} GMAC")
    for epochs in arguments.epochs:
        whole, one = table_work(training, epochs)
        rows = f"{FUSED} fused and {SINGLE} unimodal rows, {SEEDS} seeds"
        print(f"\nTable 4, {rows}, {epochs} epochs each: {whole / 1e18:.2f} EFLOP")
        for rate, price in zip(arguments.sustained, arguments.price, strict=True):
            hours = whole / rate / 1e12 / 3600
            print(
                f"  at {rate:g} TFLOP/s sustained: {hours:.0f} GPU hours, {hours * price:.0f} dollars at {price:g} an "
                f"hour; one fused seed {one / rate / 1e12 / 3600:.1f} hours"
            )


if __name__ == "__main__":
    main()
