"""How fast MOMA's attention is: through harmonics, against the softmax over all pairs of modules written out.

    python scripts/benchmark_moma.py [--threads 1] [--samples 1550] [--rounds 9]

Forward and backward of both directions between two modalities; medians of interleaved rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss.backbones.moma_attention import attend, harmonics

Attention = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def by_harmonics(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (B, 2, M) of both modalities to their attended values (B, 2 M)."""
    a, b = harmonics(*first.unbind(1)), harmonics(*second.unbind(1))
    return attend(a, b), attend(b, a)


def by_softmax(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same, with the energies of all pairs as a tensor (B, M, M)."""
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    energy = first.mT @ second
    return (first @ energy.softmax(1)).flatten(1), (second @ energy.softmax(2).mT).flatten(1)


def seconds(attention: Attention, samples: int, modules: int) -> float:
    vectors = [torch.randn(samples, 2, modules, requires_grad=True) for _ in range(2)]
    start = time.perf_counter()
    (attention(*vectors)[0].square().sum() + attention(*vectors)[1].sum()).backward()
    return (time.perf_counter() - start) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1_550)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.samples} samples, {options.threads} thread(s), forward + backward in milliseconds")
    for modules in (32, 64, 128):
        times: dict[str, list[float]] = {"harmonics": [], "softmax": []}
        for _ in range(options.rounds):
            times["harmonics"].append(seconds(by_harmonics, options.samples, modules))
            times["softmax"].append(seconds(by_softmax, options.samples, modules))
        fast, plain = (1000 * statistics.median(times[name]) for name in ("harmonics", "softmax"))
        print(f"{modules:4} modules: harmonics {fast:7.1f}  softmax {plain:7.1f}  ratio {plain / fast:5.1f}")


if __name__ == "__main__":
    main()
