"""How long an epoch of Table 5 takes: MOMA, a fusion and Adam on random data of the real tables' sizes.

    python scripts/benchmark_moma.py [--against OTHER/src] [--rounds 3]

With --against, beside the package in another checkout (`git worktree add ../other COMMIT`): each takes turns in
processes of its own, one thread each, and what the whole table takes is weighed by the minutes that the rows of the
committed table took while attention went through harmonics (outputs/results/table_5_*, one fold, at commit e8dd3f0).
"""

import argparse
import json
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


def measure() -> dict[str, dict[str, float]]:
    """Median milliseconds of an epoch, by table and row, of the package that this process imports."""
    import torch

    torch.set_num_threads(1)
    return {name: {row: 1000 * epoch_seconds(table, row) for row in FUSIONS} for name, table in TABLES.items()}


def epoch_seconds(table: Table, row: str) -> float:
    import torch

    from multimodal_loss import fusion
    from multimodal_loss.backbones import MOMA

    torch.manual_seed(0)
    widths = table.features[:1] if row == "alone" else table.features
    network = MOMA([(width,) for width in widths], table.classes, table.modules.get(row, 32))
    loss = getattr(fusion, FUSIONS[row])(table.classes, len(widths))
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=5e-4, weight_decay=1e-3)
    inputs = [torch.randn(table.samples, width) for width in widths]
    target = torch.randint(table.classes, (table.samples,))
    seconds = []
    for _ in range(EPOCHS + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        scores = network(inputs)
        loss(scores if row in ("multitask", "alone") else scores.softmax(dim=-1), target).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measure_apart(source: Path) -> dict[str, dict[str, float]]:
    """`measure` in a process that imports the package from `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--json"]
    result: dict[str, dict[str, float]] = json.loads(subprocess.check_output(command, env=environment, text=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="src folder of another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure()))
        return
    sources = [SOURCE] if options.against is None else [SOURCE, options.against]
    rounds = [[measure_apart(source) for source in sources] for _ in range(options.rounds)]
    print(f"milliseconds of an epoch, 1 thread, medians of {options.rounds} processes of {EPOCHS} epochs")
    totals = [0.0, 0.0]
    for name, table in TABLES.items():
        minutes = [0.0, 0.0]
        for row in FUSIONS:
            own, *other = (statistics.median(turn[i][name][row] for turn in rounds) for i in range(len(sources)))
            compared = f"   other {other[0]:6.1f}   own/other {own / other[0]:4.2f}" if other else ""
            print(f"{name:14} {row:13} {own:6.1f}{compared}")
            minutes = [
                minutes[0] + table.minutes[row] * own / (other[0] if other else own),
                minutes[1] + table.minutes[row],
            ]
        totals = [total + part for total, part in zip(totals, minutes, strict=True)]
        if len(sources) > 1:
            print(f"{name:14} a fold of the table: {minutes[0]:.2f} minutes, with the other {minutes[1]:.2f}")
    if len(sources) > 1:
        print(f"all three tables: {totals[0] / totals[1]:.2f} times the other's training")


if __name__ == "__main__":
    main()
