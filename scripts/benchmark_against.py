"""The benchmarks of this checkout beside those of another commit, in one run: is any path slower?

    git worktree add ../other COMMIT
    python scripts/benchmark_against.py ../other [--rounds 3] [--only training losses]

Each commit's own scripts run on its own package, on one thread, and take turns; of each time that both print, the
medians over the rounds are compared. Times are those of the processor, so that a busy machine counts less. The floor,
the straightforward loss and the loop over plain branches are the same code in both: their ratios are the noise.
MOMA has a comparison of its own: benchmark_moma.py --against.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
ON_PROCESSOR_TIME = "import time\ntime.perf_counter = time.process_time\n"  # as sitecustomize, in every process
RENAMED = {"NeuralCrossEntropy": "ConcatenationCrossEntropy"}


class Benchmark(NamedTuple):
    arguments: Sequence[str]
    columns: Sequence[Sequence[str]]  # what the times of a line are, in order: those of as many as it has, or the first


BENCHMARKS = {
    "training": Benchmark(("--threads", "1"), [("ordinary", "fast")]),
    "losses": Benchmark((), [("ours", "floor", "straightforward"), ("all", "a third missing"), ("all",)]),
    "deep_conv_lstm": Benchmark(("--threads", "1", "--rounds", "5"), [("late", "early", "intermediate", "loop")]),
    "opportunity": Benchmark(("--rounds", "1"), [("prepared", "loaded", "100 windows")]),
}


def times(checkout: Path, name: str, patched: Path) -> dict[str, float]:
    """What one run of a benchmark prints, in its own units: by the line's first word and the column's name."""
    command = [sys.executable, f"scripts/benchmark_{name}.py", *BENCHMARKS[name].arguments]
    environment = os.environ | {"PYTHONPATH": f"{patched}:{checkout / 'src'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, text=True, check=True, stdout=subprocess.PIPE)
    found, columns = {}, {len(names): names for names in BENCHMARKS[name].columns}
    for line in done.stdout.splitlines():
        first, printed = line.partition(" ")[0], re.findall(r"([\d.]+) m?s\b", line)
        for column, time in zip(columns.get(len(printed), BENCHMARKS[name].columns[0]), printed, strict=False):
            found[f"{RENAMED.get(first, first):26} {column:15}"] = float(time)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout of the other commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    options = parser.parse_args()
    checkouts = HERE, options.other.resolve()
    commits = [subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=c, text=True) for c in checkouts]
    print(f"commit {commits[0].strip()} beside {commits[1].strip()}: processor time, 1 thread, {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as patched:
        (Path(patched) / "sitecustomize.py").write_text(ON_PROCESSOR_TIME)
        for name in options.only:
            rounds = [[times(c, name, Path(patched)) for c in checkouts] for _ in range(options.rounds)]
            for label in (one for one in rounds[0][0] if one in rounds[0][1]):
                own, other = (
                    statistics.median(one[side][label] for one in rounds if label in one[side]) for side in (0, 1)
                )
                print(f"{name:14} {label} {own:8.2f}   other {other:8.2f}   own/other {own / other:.2f}", flush=True)


if __name__ == "__main__":
    main()
