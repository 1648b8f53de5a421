"""Times the fusion losses, forward and backward, and measures the memory they take.

    python scripts/benchmark_losses.py [--threads 1] [--rounds 21] [--device cpu]

Three tables: the MultiModal loss beside its floor (its two matrix products and a cross-entropy, nothing else) and
beside a straightforward implementation on pytorch-metric-learning's CosineSimilarity; every fusion at the size of
Table 1, also with missing modalities; and Mulmix over the 524,287 candidates of 19 modalities. Contestants take turns,
round by round, and the medians of all rounds are shown, so that a busy machine slows them alike. Memory is what a step
adds at its peak, gradients included, in a process of its own.
"""

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor, nn

from multimodal_loss import fusion as fusions
from multimodal_loss.fusion import Fusion, Mulmix, MultiModalLoss

Step = Callable[[], object]
Size = tuple[int, int, int, int]  # B, M, C, K

TCGA: Size = (6948, 2, 34, 20)
SYNTHETIC: Size = (10_000, 3, 2, 20)
OPPORTUNITY: Size = (100, 19, 18, 20)
MANY_CLASSES: Size = (512, 3, 1000, 20)


class Floor(nn.Module):
    """What no implementation can leave out: x W, (x W) W^T, and a cross-entropy."""

    def __init__(self, num_classes: int, num_modalities: int, proxies_per_class: int = 20) -> None:
        super().__init__()
        self.shape = (num_modalities, num_classes)
        dim = num_modalities * num_classes
        self.weight = nn.Parameter(torch.rand(dim, num_classes * proxies_per_class) / dim)

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        back = (scores.flatten(1) @ self.weight) @ self.weight.t()
        return F.cross_entropy(back.view(-1, *self.shape).sum(dim=1), target)


class Straightforward(nn.Module):
    """The MultiModal loss line by line, its similarity from pytorch-metric-learning."""

    def __init__(self, num_classes: int, num_modalities: int, proxies_per_class: int = 20) -> None:
        super().__init__()
        self.shape = (num_classes, proxies_per_class)
        dim = num_modalities * num_classes
        self.weight = nn.Parameter(torch.rand(dim, num_classes * proxies_per_class) - 0.5)
        self.cosine = CosineSimilarity()

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        flat = scores.flatten(1)
        proxies = F.normalize(self.weight.clamp(min=0), dim=0)
        similarity = self.cosine(flat, proxies.t())
        attention = F.softmax(similarity / 0.1, dim=1)
        expected = (attention @ proxies.t()).view_as(scores)
        attended = (expected * scores).sum(dim=1) + scores.sum(dim=1)
        similarity = similarity.view(-1, *self.shape)
        class_score = (F.softmax(similarity / 0.1, dim=1) * similarity).sum(dim=2)
        return F.cross_entropy(class_score + attended, target)


CONTESTANTS: dict[str, type[nn.Module]] = {"ours": MultiModalLoss, "floor": Floor, "straightforward": Straightforward}


def training_step(loss: nn.Module, size: Size, device: str, missing: float = 0.0) -> Step:
    """One forward and backward pass on drawn probabilities, gradients for scores and parameters; `missing` is the share
    of modalities that samples lack.
    """
    batch, modalities, classes, _ = size
    loss = loss.to(device)
    scores = torch.randn(batch, modalities, classes, device=device).softmax(dim=-1).requires_grad_()
    target = torch.randint(classes, (batch,), device=device)
    masked = {}
    if missing:
        mask = torch.rand(batch, modalities, device=device) >= missing
        mask[:, 0] |= ~mask.any(dim=1)
        masked["mask"] = mask

    def step() -> None:
        scores.grad = None
        loss.zero_grad()
        loss(scores, target, **masked).backward()

    return step


def take_turns(steps: dict[str, Step], rounds: int, device: str) -> dict[str, float]:
    """The median seconds of each step."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            synchronise(device)
            start = time.perf_counter()
            step()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def peak_megabytes(name: str, size: Size, device: str, threads: int) -> float:
    """What one step of a contestant adds to the memory at its peak, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_peak, (name, size, device, threads))


def measure_peak(name: str, size: Size, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    kind = CONTESTANTS[name] if name in CONTESTANTS else getattr(fusions, name)
    training_step(kind(2, size[1]), (2, size[1], 2, 20), device)()  # loads libraries
    step = training_step(kind(size[2], size[1]), size, device)
    if device != "cpu":
        before = torch.accelerator.memory_allocated()
        torch.accelerator.reset_peak_memory_stats()
        step()
        return (torch.accelerator.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is in use
    before = resident_bytes("VmRSS")
    step()
    return (resident_bytes("VmHWM") - before) / 1e6


def resident_bytes(line: str) -> int:
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def compare_multimodal(rounds: int, device: str, threads: int) -> None:
    print(
        "\nMultiModal loss, forward + backward      ours    floor  straightforward   ours/floor   ours/straightforward"
    )
    for label, size in (("TCGA", TCGA), ("synthetic", SYNTHETIC), ("OPPORTUNITY", OPPORTUNITY)):
        _, modalities, classes, per_class = size
        steps = {
            name: training_step(kind(classes, modalities, per_class), size, device)
            for name, kind in CONTESTANTS.items()
        }
        median = take_turns(steps, rounds, device)
        ours, floor, straight = (median[name] * 1e3 for name in CONTESTANTS)
        shape = "B={} M={} C={} K={}".format(*size)
        print(
            f"{label:12} {shape:24} {ours:6.1f} ms {floor:5.1f} ms {straight:13.1f} ms "
            f"{ours / floor:12.2f} {ours / straight:22.2f}"
        )
    print("\nMemory at the peak of one step            ours   straightforward   one (B, C, K) tensor   the proxies")
    for label, size in (("TCGA", TCGA), ("many classes", MANY_CLASSES)):
        batch, modalities, classes, per_class = size
        ours, straight = (peak_megabytes(name, size, device, threads) for name in ("ours", "straightforward"))
        tensor, proxies = (4 * n * classes * per_class / 1e6 for n in (batch, modalities * classes))
        shape = "B={} M={} C={} K={}".format(*size)
        print(f"{label:12} {shape:26} {ours:6.0f} MB {straight:9.0f} MB {tensor:17.0f} MB {proxies:15.1f} MB")


def compare_fusions(rounds: int, device: str) -> None:
    _, modalities, classes, _ = SYNTHETIC
    names = [name for name in fusions.__all__ if name not in ("Fusion", "ReadOut", "Unimodal")]
    kinds: dict[str, type[Fusion]] = {name: getattr(fusions, name) for name in names}
    steps = {name: training_step(kind(classes, modalities), SYNTHETIC, device) for name, kind in kinds.items()}
    for name, kind in kinds.items():
        steps[f"{name} masked"] = training_step(kind(classes, modalities), SYNTHETIC, device, missing=1 / 3)
    seconds = take_turns(steps, rounds, device)
    print("\nEvery fusion at the size of Table 1, B={} M={} C={}, forward + backward".format(*SYNTHETIC))
    print(f"{'':28}       all   a third missing")
    for name in names:
        print(f"{name:28} {seconds[name] * 1e3:6.2f} ms {seconds[f'{name} masked'] * 1e3:14.2f} ms")


def measure_mulmix(rounds: int, device: str, threads: int) -> None:
    batch, modalities, classes, _ = OPPORTUNITY
    fusion = Mulmix(classes, modalities).to(device)
    scores = torch.randn(batch, modalities, classes, device=device).softmax(dim=-1)
    training = take_turns({"step": training_step(fusion, OPPORTUNITY, device)}, rounds, device)["step"]
    prediction = take_turns({"logits": lambda: fusion.logits(scores)}, 1, device)["logits"]
    memory = peak_megabytes("Mulmix", OPPORTUNITY, device, threads)
    print(f"\nMulmix, B={batch} M={modalities} C={classes}, all {2**modalities - 1:,} candidates")
    print(f"training   {training:.2f} s, forward + backward")
    print(f"prediction {prediction:.1f} s; peak of both {memory:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--rounds", type=int, default=21, help="timed rounds, of which the median counts (default: 21)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s), medians of {arguments.rounds}"
    )
    compare_multimodal(arguments.rounds, arguments.device, arguments.threads)
    compare_fusions(arguments.rounds, arguments.device)
    measure_mulmix(min(arguments.rounds, 3), arguments.device, arguments.threads)


if __name__ == "__main__":
    main()
