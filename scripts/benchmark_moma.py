"""How long an epoch of Table 5 takes: MOMA, a fusion and Adam on random data of the real tables' sizes.

    python scripts/benchmark_moma.py [--against OTHER/src] [--rounds 5]

With --against, beside the package in another checkout (`git worktree add ../other COMMIT`): both take turns, each in a
process of its own with one thread, and what the whole table takes is weighed by the minutes that the rows of the
committed table took while attention went through harmonics (outputs/results/table_5_*, one fold, at commit e8dd3f0).
Times are those of the processor, so that a busy machine counts less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src"
EPOCHS = 12


class Table(NamedTuple):
    """Training samples and features of a dataset's fold, its classes, and minutes and modules by row."""

    samples: int
    features: tuple[int, int]
    classes: int
    minutes: dict[str, float]
    modules: dict[str, int]


# The fusion of a row; "alone" is the mean of both modalities. NN + CE has its sibling's time.
FUSIONS = {
    "multitask": "Multitask",
    "sum_ce": "SumCrossEntropy",
    "nn_ce": "SumCrossEntropy",
    "mulmix": "Mulmix",
    "soft_triple": "SoftTriple",
    "proxy_anchor": "ProxyAnchor",
    "multimodal": "MultiModalLoss",
    "alone": "Unimodal",
}
TABLES = {
    "tcga_subtypes": Table(
        1550,
        (66, 40),
        11,
        dict(zip(FUSIONS, (0.774, 0.307, 0.602, 0.237, 0.642, 0.922, 0.176, 0.227), strict=True)),
        {"mulmix": 64, "alone": 64},
    ),
    "tcga_brca": Table(
        615,
        (2500, 2203),
        5,
        dict(zip(FUSIONS, (0.116, 0.370, 0.472, 0.390, 0.114, 2.400, 0.348, 1.043), strict=True)),
        {},
    ),
    "tcga_kipan": Table(
        526,
        (2284, 2102),
        3,
        dict(zip(FUSIONS, (0.402, 0.076, 0.826, 0.432, 0.495, 2.399, 0.289, 0.086), strict=True)),
        {},
    ),
}


def epoch_seconds(table: Table, row: str) -> float:
    """The median over some epochs, with the package that this process imports."""
    import torch

    from multimodal_loss import fusion
    from multimodal_loss.backbones import MOMA

    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = table.features[:1] if row == "alone" else table.features
    network = MOMA([(width,) for width in widths], table.classes, table.modules.get(row, 32))
    loss = getattr(fusion, FUSIONS[row])(table.classes, len(widths))
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=5e-4, weight_decay=1e-3)
    inputs = [torch.randn(table.samples, width) for width in widths]
    target = torch.randint(table.classes, (table.samples,))
    seconds = []
    for _ in range(EPOCHS + 2):
        start = time.process_time()
        optimizer.zero_grad()
        scores = network(inputs)
        loss(scores if row in ("multitask", "alone") else scores.softmax(dim=-1), target).backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[2:])


class Contestant:
    """A process that imports the package from `source` and measures what it is asked for."""

    def __init__(self, source: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve"]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def milliseconds(self, table: str, row: str) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(table, row, file=self._process.stdin, flush=True)
        return 1000 * float(self._process.stdout.readline())


def serve() -> None:
    for line in sys.stdin:
        table, row = line.split()
        print(epoch_seconds(TABLES[table], row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="src folder of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    contestants = [Contestant(source) for source in (SOURCE, options.against) if source is not None]
    print(f"milliseconds of an epoch, 1 thread, medians of {options.rounds} rounds of {EPOCHS} epochs")
    own_minutes, other_minutes = 0.0, 0.0
    for name, table in TABLES.items():
        for row in FUSIONS:
            rounds = [[c.milliseconds(name, row) for c in contestants] for _ in range(options.rounds)]
            own, *other = (statistics.median(times) for times in zip(*rounds, strict=True))
            compared = f"   other {other[0]:6.1f}   own/other {own / other[0]:4.2f}" if other else ""
            print(f"{name:14} {row:13} {own:6.1f}{compared}", flush=True)
            own_minutes += table.minutes[row] * (own / other[0] if other else 1)
            other_minutes += table.minutes[row]
    if len(contestants) > 1:
        print(f"a fold of all three tables: {own_minutes:.1f} minutes, with the other {other_minutes:.1f}")


if __name__ == "__main__":
    main()
