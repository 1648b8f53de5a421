"""Speed and memory of preparing the paper's TCGA data, on generated matrices of the true width.

    python scripts/benchmark_prepare_tcga.py [--lines 1500] [--rounds 3]     # 400 MB in a temporary folder
    python scripts/benchmark_prepare_tcga.py --build                         # 2 GB there; minutes

The first reads a methylation matrix, 9,736 samples a line, values of 15 decimals, 2 % missing, on 20,000 genes, gzipped
and plain: each measurement is a fresh process that reads it (datasets/getting/matrix_stream.py), by one thread and by
one for each core; medians of --rounds. From lines a second follows the time of the real matrix, 485,577 probes.
The second runs scripts/prepare_tcga.py whole, recipe xena with all of its 9,081 samples and 60,483 genes, and 30,000
genes of methylation, a probe each: more probes a gene take longer to read but no more memory.
Targets: 80 MB of text a second on 2 cores; less than 6 GB.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from prepare_tcga import NORMAL, XENA, XENA_NAMES

SAMPLES = 9_736
PROBES = 485_577
GENES = 20_000
BUILD_GENES = {"GE": 60_483, "DM": 30_000}

MEASURE = """
import json, resource, sys, time
from pathlib import Path
import pyarrow as pa
from multimodal_loss.datasets.getting.matrix_stream import Pass, reduce_lines
path, columns, genes, workers = Path(sys.argv[1]), range(1, int(sys.argv[2]) + 1), int(sys.argv[3]), int(sys.argv[4])
pa.set_cpu_count(workers)
names = {f"cg{i:08d}": (f"GENE{i * 7919 % genes}",) for i in range(int(sys.argv[5]))}
job = Pass(path, list(columns), len(columns) + 1, names, lambda values: values, "key")
start, before = time.perf_counter(), time.process_time()
reduce_lines(job, Path(sys.argv[6]))
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
print(json.dumps([time.perf_counter() - start, time.process_time() - before, memory]))
"""


BUILD = """
import resource, sys, time
from prepare_tcga import main
start = time.perf_counter()
code = main(sys.argv[1:])
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"prepared in {(time.perf_counter() - start) / 60:.1f} min, peak {memory:.1f} GiB")
sys.exit(code)
"""


def write_matrix(path: Path, lines: int) -> int:
    """A matrix of `lines` probes, also as path.gz; its bytes of text."""
    rng = np.random.default_rng(0)
    digits = [f"{value:.15f}".encode() for value in rng.beta(0.5, 0.5, 50_000)]
    cells = np.array([*digits, *([b"NA"] * 1000)], dtype=object)
    with open(path, "wb") as plain, gzip.open(f"{path}.gz", "wb", compresslevel=1) as zipped:
        for file in (plain, zipped):
            file.write(b"\t".join([b"sample", *(f"TCGA-{i:08d}-01A".encode() for i in range(SAMPLES))]) + b"\n")
        for i in range(lines):
            line = b"\t".join([f"cg{i:08d}".encode(), *rng.choice(cells, SAMPLES)]) + b"\n"
            plain.write(line)
            zipped.write(line)
    return path.stat().st_size


def write_source(folder: Path) -> None:
    """The files of recipe xena, with its numbers of samples; values of two decimals."""
    classes = [name for name, count in XENA.counts.items() for _ in range(count)]
    samples = [f"TCGA-{i:08d}-01A" for i in range(len(classes))]
    table = [b"sample\tproject_id\tprogram\tsample_type"]
    for sample, name in zip(samples, classes, strict=True):
        kind = "Solid Tissue Normal" if name == NORMAL else "Primary Tumor"
        table.append(f"{sample}\tTCGA-{'BRCA' if name == NORMAL else name}\tTCGA\t{kind}".encode())
    with gzip.open(folder / XENA_NAMES["annotation"], "wb") as file:
        file.write(b"\n".join(table) + b"\n")
    rng = np.random.default_rng(0)
    for name, role in (("GE", "genes"), ("DM", "probes")):
        ids = [f"{name}{i:08d}" for i in range(BUILD_GENES[name])]
        (folder / XENA_NAMES[role]).write_text("\n".join(["id\tgene\tchrom", *(f"{i}\tof{i}\tchr1" for i in ids), ""]))
        cells = np.array([f"{value:.2f}".encode() for value in rng.random(1000)], dtype=object)
        with gzip.open(folder / XENA_NAMES[name], "wb", compresslevel=1) as file:
            file.write("\t".join(["id", *samples]).encode() + b"\n")
            for i in ids:
                file.write(b"\t".join([i.encode(), *rng.choice(cells, len(samples))]) + b"\n")


def benchmark_build(folder: Path) -> None:
    write_source(folder)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", BUILD, "--source", str(folder), "--output", str(folder / "tcga")]
    subprocess.run(command, check=True, env=environment)


def measure(path: Path, lines: int, workers: int) -> list[float]:
    """Wall seconds, processor seconds and peak memory in GiB of reading the file in a fresh process."""
    with tempfile.TemporaryDirectory() as state:
        texts = (str(path), str(SAMPLES), str(GENES), str(workers), str(lines), f"{state}/state")
        command = [sys.executable, "-c", MEASURE, *texts]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in json.loads(done.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1500, help="probes of the generated matrix (default: 1500)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", action="store_true", help="measure the whole preparation instead of reading")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.build:
            benchmark_build(Path(temporary))
            return
        path = Path(temporary) / "matrix.tsv"
        megabytes = write_matrix(path, arguments.lines) / 1e6
        print(f"{megabytes:.0f} MB of text, {arguments.lines} lines, {cores} cores, medians of {arguments.rounds}")
        for name in ("matrix.tsv.gz", "matrix.tsv"):
            for workers in sorted({1, cores}):
                rounds = [measure(path.with_name(name), arguments.lines, workers) for _ in range(arguments.rounds)]
                wall, processor, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
                lines_a_second = arguments.lines / wall
                print(
                    f"{name:14} {workers} thread(s)   {megabytes / wall:4.0f} MB/s   "
                    f"{megabytes / processor:4.0f} MB per CPU second   {lines_a_second:4.0f} lines/s: "
                    f"{PROBES / lines_a_second / 60:.0f} min for {PROBES:,} probes   peak {memory:.1f} GiB"
                )


if __name__ == "__main__":
    main()
