"""One epoch of five seeds on the fast path beside five epochs of the ordinary one-seed path, in one run.

    python scripts/benchmark_training.py [--threads 2] [--fusion sum_ce]

The ordinary path is what the authors' code does: three stacks of linear layers on all 10,000 x 2,000 rows, autograd,
torch.optim.Adam. Both sides do forward, backward, optimiser and early-stopping bookkeeping. Rounds of the two
alternate; medians are compared.
Target: the fast epoch takes at most 1/60 of the five ordinary ones; aim: 1/100.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch

from multimodal_loss import fusion as fusions
from multimodal_loss.backbones import MLP
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.training.collapsed import CollapsedTrainer
from multimodal_loss.training.group_trainer import GroupTrainer, OrdinaryTrainer
from multimodal_loss.training.loop import EarlyStopping
from multimodal_loss.training.replicate import Recipe, Replicate, make_replicate

FUSIONS = {
    "sum_ce": fusions.SumCrossEntropy,
    "nn_ce": fusions.ConcatenationCrossEntropy,
    "mulmix": fusions.Mulmix,
    "soft_triple": fusions.SoftTriple,
    "proxy_anchor": fusions.ProxyAnchor,
    "multimodal": fusions.MultiModalLoss,
}
SEEDS = 5


def random_data(rows: int, features: int, modalities: int) -> MultimodalData:
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(rows, features, generator=generator) for _ in range(modalities))
    split = Split(inputs, torch.arange(rows) % 2)
    return MultimodalData(split, None, split, tuple(f"m{i}" for i in range(modalities)), ("0", "1"), "random")


def replicates(data: MultimodalData, fusion: str, number: int) -> list[Replicate]:
    return [
        make_replicate(
            seed,
            seed,
            None,
            data,
            lambda d: MLP(d.feature_shapes, len(d.classes)),
            FUSIONS[fusion],
        )
        for seed in range(number)
    ]


def epoch(trainer: GroupTrainer, stopping: list[EarlyStopping]) -> None:
    losses = trainer.step()
    assert losses is not None
    for rule, loss in zip(stopping, losses.tolist(), strict=True):
        rule.should_stop(loss)


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fusion", choices=FUSIONS, nargs="+", default=["sum_ce", "nn_ce", "multimodal"])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="one ordinary epoch and 10 fast ones each")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data, device = random_data(arguments.rows, 2_000, 3), torch.device("cpu")
    adam = functools.partial(torch.optim.Adam, lr=5e-4, weight_decay=1e-4)
    recipe = Recipe(adam, TrainerConfig(None, 10**6, 1e-4, 10**6), "probabilities")
    print(f"{arguments.rows:,} rows x 3 modalities x 2,000 features, float32, {arguments.threads} thread(s), medians")
    for fusion in arguments.fusion:
        ordinary = OrdinaryTrainer(replicates(data, fusion, 1)[0], recipe, device)
        fast = CollapsedTrainer(replicates(data, fusion, SEEDS), recipe, device)
        rules = [EarlyStopping(1e-4, 10**9) for _ in range(SEEDS)]
        for trainer, number in ((ordinary, 1), (fast, SEEDS)):  # warm up: threads, memory, kernels
            epoch(trainer, rules[:number])
        slow_times, fast_times = [], []
        for _ in range(arguments.rounds):
            slow_times.append(seconds(lambda: epoch(ordinary, rules[:1])))  # noqa: B023
            fast_times += [seconds(lambda: epoch(fast, rules)) for _ in range(10)]  # noqa: B023
        slow, quick = statistics.median(slow_times), statistics.median(fast_times)
        print(
            f"{fusion:13}  ordinary, one seed: {1e3 * slow:7.1f} ms   fast, five seeds: {1e3 * quick:6.1f} ms   "
            f"five ordinary epochs / one fast epoch = {SEEDS * slow / quick:.0f}"
        )


if __name__ == "__main__":
    main()
