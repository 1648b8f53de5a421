"""What a training step of Intermediate Attention on RAVDESS (Table 2) takes on a GPU, ESTIMATED from counts.

    python scripts/benchmark_intermediate_attention.py [--device cpu]

Nothing is computed for the estimate: a step of 8 clips of 15 frames (32 with the modality dropout `softhard`) runs on
tensors without content, and three things are counted: floating-point operations of convolutions and matrix products
(of the forward pass, times 3: PyTorch's counter takes the backward pass of a depthwise convolution for a full one),
bytes that all operations read and write, and operations. A step takes at least the largest of

    operations' arithmetic / peak,   bytes / bandwidth,   operations x LAUNCH seconds each

on the GPU named, each with the share of the peak that such networks reach as a rule (USED). Memory is what is kept for
the backward pass, and weights, gradients and momentum. A measured step on --device stands below, with its rate, as a
check of the counts: where it is the GPU, it replaces the estimate.
"""

import argparse
import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from multimodal_loss.backbones import IntermediateAttention

AUDIO, VIDEO, CLASSES = (10, 156), (3, 15, 224, 224), 7
CLIPS_IN_TRAINING = 1152  # mean over the folds: of 1,440 clips four fifths
EPOCHS, FOLDS = 100, 5  # the cap
RUNS = {32: 6, 8: 1}  # of Table 2: six fusions with modality dropout, and video alone without
LAUNCH = 8e-6  # seconds that an operation takes at least
USED = 0.6


@dataclass(frozen=True)
class GPU:
    """Peaks as published: TFLOP/s of float32 and of dense bfloat16, and GB/s."""

    name: str
    float32: float
    bfloat16: float
    bandwidth: float


GPUS = (GPU("T4", 8.1, 8.1, 320), GPU("A100 40 GB", 19.5, 312, 1555), GPU("H100 SXM", 67, 989, 3350))


class Traffic(TorchDispatchMode):
    """Counts operations that compute something, and the bytes of what they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if not function.is_view and function.namespace == "aten" and "detach" not in function.name():
            tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, torch.Tensor)]
            self.operations += 1
            self.bytes += sum(one.numel() * one.element_size() for one in tensors)
        return out


@dataclass(frozen=True)
class Count:
    clips: int
    amp: bool
    flops: float
    bytes: float
    operations: int
    memory: float

    @property
    def title(self) -> str:
        return f"{self.clips} in {'bfloat16' if self.amp else 'float32'}"

    def seconds(self, gpu: GPU) -> float:
        peak = gpu.bfloat16 if self.amp else gpu.float32
        arithmetic, moved = self.flops / (peak * 1e12 * USED), self.bytes / (gpu.bandwidth * 1e9 * USED)
        return max(arithmetic, moved, self.operations * LAUNCH)


def training_step(network: IntermediateAttention, inputs: list[torch.Tensor], amp: bool) -> None:
    with torch.autocast(inputs[0].device.type, torch.bfloat16) if amp else contextlib.nullcontext():
        scores = network(inputs)
    target = torch.zeros(len(inputs[0]), dtype=torch.long, device=inputs[0].device)
    F.cross_entropy(scores.float().sum(dim=1), target).backward()


def count(clips: int, amp: bool) -> Count:
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode():
        network = IntermediateAttention([AUDIO, VIDEO], CLASSES)
        inputs = [torch.zeros(clips, *AUDIO), torch.zeros(clips, *VIDEO)]
        flops, traffic = FlopCounterMode(display=False), Traffic()
        with flops, torch.no_grad():
            network(inputs)
        with traffic, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            training_step(network, inputs, amp)
        weights = sum(p.numel() * 4 for p in network.parameters())
    # Weights are among what is kept; gradients, momentum and the update's way through them come on top.
    return Count(
        clips,
        amp,
        3 * flops.get_total_flops(),
        traffic.bytes + 8 * weights,
        traffic.operations,
        sum(kept.values()) + 3 * weights,
    )


def measured(device: torch.device, clips: int, rounds: int) -> float:
    """Seconds of forward and backward of so many clips, the median of the rounds; of a CPU its own, busy or not."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    network = IntermediateAttention([AUDIO, VIDEO], CLASSES).to(device)
    inputs = [torch.rand(clips, *shape, device=device) for shape in (AUDIO, VIDEO)]
    seconds = []
    for _ in range(rounds + 1):
        start = clock()
        training_step(network, inputs, amp=False)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=2, help="of the measured step")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"ESTIMATE from counts, not measured: a training step, {USED:.0%} of each peak used")
    heading = "".join(f"{gpu.name:>12}" for gpu in GPUS)
    print(f"{'':>15} {'TFLOP':>7} {'GB moved':>9} {'operations':>10} {'GB kept':>8}{heading}   ms a step")
    counts = [count(clips, amp) for clips in (8, 32) for amp in (False, True)]
    for one in counts:
        times = "".join(f"{1000 * one.seconds(gpu):>12.0f}" for gpu in GPUS)
        numbers = f"{one.flops / 1e12:>7.3f} {one.bytes / 1e9:>9.1f} {one.operations:>10,} {one.memory / 1e9:>8.1f}"
        print(f"{one.title:>15} {numbers}{times}")
    steps = -(-CLIPS_IN_TRAINING // 8) * EPOCHS * FOLDS
    for amp in (False, True):
        seconds = [sum(RUNS[one.clips] * one.seconds(gpu) for one in counts if one.amp == amp) for gpu in GPUS]
        hours = ", ".join(f"{gpu.name} {one * steps / 3600:.0f}" for gpu, one in zip(GPUS, seconds, strict=True))
        precision = "bfloat16" if amp else "float32"
        print(f"Table 2's runs with video, {FOLDS} folds of {EPOCHS} epochs, {precision}: hours on {hours}")
    device = torch.device(options.device)
    taken = measured(device, options.clips, options.rounds)
    rate = counts[0].flops / counts[0].clips * options.clips / taken / 1e9
    threads = f" ({options.threads} thread{'s' * (options.threads > 1)}, its own time)" if device.type == "cpu" else ""
    print(f"measured on {device}{threads}: {options.clips} clips {taken:.2f} s, {rate:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
