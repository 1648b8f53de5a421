"""Time of preparing OPPORTUNITY the first time and of loading it afterwards, on generated recordings of the true size.

    python scripts/benchmark_opportunity.py                      # 0.8 GB in a temporary folder, deleted at the end
    python scripts/benchmark_opportunity.py --folder data/opportunity

Each measurement is a fresh process, after its imports. Preparing reads, checks, interpolates and scales the 18 text
files and writes the arrays; loading opens what that wrote. Medians of --rounds. Batches of 100 random windows are cut
last.
Target: prepared in at most 45 s and 3 GB on 2 cores, loaded in under 1 s.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from make_opportunity_like import write_like
from multimodal_loss.datasets.opportunity import PROFILES, OpportunityDataset

MEASURE = """
import json, resource, sys, time
from multimodal_loss.datasets.opportunity import OpportunityDataset
start = time.perf_counter()
data = OpportunityDataset(sys.argv[1], sys.argv[2], profile=sys.argv[3]).load()
seconds = time.perf_counter() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
print(json.dumps([seconds, memory, len(data.train), len(data.test)]))
"""


def measure(folder: Path, cache: Path, profile: str) -> list[float]:
    """Seconds of load(), peak memory of the process in GiB, and the numbers of training and test windows."""
    command = [sys.executable, "-c", MEASURE, str(folder), str(cache), profile]
    content = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [float(number) for number in content]


def benchmark(folder: Path, cache: Path, profile: str, rounds: int) -> None:
    prepared, loaded = [], []
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        prepared.append(measure(folder, cache, profile))
        loaded.append(measure(folder, cache, profile))
    seconds, memory, train, test = (statistics.median(column) for column in zip(*prepared, strict=True))
    again = statistics.median(row[0] for row in loaded)
    split = OpportunityDataset(folder, cache, profile=profile).load().train
    generator, times = torch.Generator().manual_seed(0), []
    for _ in range(200):
        index = torch.randint(len(split), (100,), generator=generator)
        start = time.perf_counter()
        split.rows(index)
        times.append(time.perf_counter() - start)
    print(
        f"{profile:14}  {train:,.0f} + {test:,.0f} windows   prepared in {seconds:5.1f} s, peak {memory:.2f} GiB"
        f"   loaded in {again:.3f} s   100 windows in {1e3 * statistics.median(times):.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="recordings that are there already")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "recordings"
        if arguments.folder is None:
            start = time.perf_counter()
            write_like(folder)
            print(f"generated in {time.perf_counter() - start:.1f} s")
        size = sum(path.stat().st_size for path in folder.glob("*.dat"))
        print(f"{size / 1e9:.2f} GB of text, {os.cpu_count()} cores, medians of {arguments.rounds}")
        for profile in arguments.profiles:
            benchmark(folder, Path(temporary) / "cache", profile, arguments.rounds)


if __name__ == "__main__":
    main()
