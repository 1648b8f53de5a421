"""Builds TCGA data as in the paper (Tables 5 and 6): 33 cancers and normal tissue by gene expression (GE) and DNA
methylation (DM), as the tables folder data/tcga (datasets/getting/tables_folder.py).

    python scripts/prepare_tcga.py                    # recipe xena: UCSC Xena "GDC Pan-Cancer (PANCAN)", 450K arrays
    python scripts/prepare_tcga.py --recipe gdc       # recipe gdc: the GDC's PanCanAtlas files, 7 GB, with MD5 sums
    python scripts/prepare_tcga.py --source FOLDER    # the files are there already; nothing is downloaded

Downloads and the build go on where they were interrupted. Nothing of the methylation matrix (tens of gigabytes) is held
but the sums of its genes: about 4 GB at the peak. Two cores read some 90 MB of text a second
(scripts/benchmark_prepare_tcga.py).

What is done, where the paper says nothing:

- A sample is kept when it is in both matrices and its cancer is known. xena: 16-character ids of the program TCGA, all
  that is "Normal" one class: 34 classes, 9,081 samples. gdc: aliquots without Do_not_use, joined on the first 15
  characters of the barcode, the first aliquot of a sample; primary tumours (01), normal tissue (11) as one class,
  LAML's blood (03) and SKCM's metastases (06): 34 classes. The paper has 8,685 samples; no public recipe gives that.
- DM: the mean beta value of a gene's probes, over the probes that have a value; a probe of several genes counts for
  each. Left out: probes without a gene, on chromosome Y, and those that measure an SNP (rs...).
- GE: log2(x + 1) (in the Xena file already; gdc: negative values of the batch correction count as 0). Left out: genes
  that are 0 everywhere, and xena: genes on chromosome Y.
- Genes with more than 10 % missing values are left out, then samples with more than 10 % in either table. What is still
  missing stays NaN: the dataset fills it with means of the training fold (`impute: mean`), never here.
- The patient is each sample's group in labels.csv, so that no patient is both trained and tested on.

The recipes' numbers of samples are checked before the long work; --accept-counts builds also when they differ.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from multimodal_loss.command import run_script
from multimodal_loss.datasets.getting import tables_folder
from multimodal_loss.datasets.getting.download import RemoteFile, check, download
from multimodal_loss.datasets.getting.matrix_stream import Array, GeneMeans, Pass, read_header, reduce_lines
from multimodal_loss.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MODALITIES = ("GE", "DM")
NORMAL = "Normal"
LICENCE_AND_GROUPS = {"licence": "TCGA, open access", "groups": "patients"}
PAPER_SAMPLES = 8685
MAX_MISSING = 0.1
# Of a matrix's lines: ids that its map does not have. A map of the right recipe knows nearly all; half a map does not.
MAX_UNKNOWN = 0.1
BUILD_VERSION = 2  # raised when the same files would give another saved state: a half-finished build is begun anew

# Given a column's barcode, the sample that it measures and its class; None to leave it out.
Labeller = Callable[[str], tuple[str, str] | None]


@dataclass(frozen=True)
class Recipe:
    """Where the files are and what should come out of them.

    `files` by role: GE, DM, annotation (samples' classes), probes (DM's probe -> genes), and optionally genes (GE's
    gene -> chromosome). `counts` are the samples of each class before samples with missing values are left out;
    classes that are not in it are not checked.
    """

    source: Mapping[str, str]
    files: Mapping[str, RemoteFile]
    labeller: Callable[[Path], Labeller]
    expression: Callable[[Array], Array]
    counts: Mapping[str, int]
    num_classes: int = 34


def unchanged(values: Array) -> Array:
    return values


# --- recipe xena


def xena_labeller(path: Path) -> Labeller:
    """Classes from the table of sample, sample_type, project_id and program."""
    table = read_tsv(path, ["sample", "sample_type", "project_id", "program"])
    table = table[table["program"] == "TCGA"]
    normal = table["sample_type"].str.contains("Normal")
    labels = table["project_id"].str.removeprefix("TCGA-").where(~normal, NORMAL)
    require_one_label(path, table["sample"], labels)
    by_sample = dict(zip(table["sample"], labels, strict=True))
    return lambda barcode: (barcode, by_sample[barcode]) if barcode in by_sample else None


XENA_HUB = "https://gdc-hub.s3.us-east-1.amazonaws.com/download/"
XENA_NAMES = {
    "annotation": "GDC-PANCAN.basic_phenotype.tsv.gz",
    "genes": "gencode.v22.annotation.gene.probeMap",
    "probes": "illuminaMethyl450_hg38_GDC",
    "GE": "GDC-PANCAN.htseq_fpkm-uq.tsv.gz",
    "DM": "GDC-PANCAN.methylation450.tsv.gz",
}
# fmt: off
XENA = Recipe(
    source={"recipe": "xena", "source": "UCSC Xena, GDC Pan-Cancer (PANCAN)", **LICENCE_AND_GROUPS},
    files={role: RemoteFile(name, XENA_HUB + name) for role, name in XENA_NAMES.items()},
    labeller=xena_labeller,
    expression=unchanged,
    counts={
        "ACC": 79, "BLCA": 411, "BRCA": 783, "CESC": 306, "CHOL": 36, "COAD": 308, "DLBC": 48, "ESCA": 162, "GBM": 63,
        "HNSC": 502, "KICH": 65, "KIRC": 321, "KIRP": 274, "LAML": 100, "LGG": 529, "LIHC": 374, "LUAD": 465,
        "LUSC": 370, "MESO": 86, "OV": 7, "PAAD": 178, "PCPG": 183, "PRAD": 499, "READ": 99, "SARC": 263, "SKCM": 471,
        "STAD": 338, "TGCT": 156, "THCA": 510, "THYM": 119, "UCEC": 433, "UCS": 56, "UVM": 80, NORMAL: 407,
    },
)
# fmt: on


# --- recipe gdc


def gdc_labeller(path: Path) -> Labeller:
    """Classes from the table of aliquots with their patients, cancers and quality; a patient's first cancer counts."""
    table = read_tsv(path, ["patient_barcode", "aliquot_barcode", "cancer type", "Do_not_use"])
    unusable = set(table.loc[table["Do_not_use"].str.lower().isin(["true", "1"]), "aliquot_barcode"])
    typed = table[table["cancer type"] != ""].drop_duplicates("patient_barcode")
    cancers = dict(zip(typed["patient_barcode"], typed["cancer type"], strict=True))

    def label(barcode: str) -> tuple[str, str] | None:
        cancer, sample_type = cancers.get(barcode[:12]), barcode[13:15]
        if cancer is None or barcode in unusable:
            return None
        if sample_type == "11":
            return barcode[:15], NORMAL
        if sample_type == "01" or (sample_type, cancer) in (("03", "LAML"), ("06", "SKCM")):
            return barcode[:15], cancer
        return None

    return label


def log2_of_counts(values: Array) -> Array:
    return np.log2(np.maximum(values, np.float32(0)) + np.float32(1))


GDC = "https://api.gdc.cancer.gov/data/"
# fmt: off
GDC_RECIPE = Recipe(
    source={"recipe": "gdc", "source": "GDC, PanCanAtlas publication files", **LICENCE_AND_GROUPS},
    files={
        "annotation": RemoteFile(
            "merged_sample_quality_annotations.tsv", f"{GDC}1a7d7be8-675d-4e60-a105-19d4121bdebf",
            8_463_670, "05ddd2270fb1fb24fbdc2fe9bf7384e5",
        ),
        "probes": RemoteFile(
            "illuminaMethyl450_hg19_GPL16304_TCGAlegacy",
            "https://tcga-pancan-atlas-hub.s3.us-east-1.amazonaws.com/download/"
            "probeMap%2FilluminaMethyl450_hg19_GPL16304_TCGAlegacy",
        ),
        "GE": RemoteFile(
            "EBPlusPlusAdjustPANCAN_IlluminaHiSeq_RNASeqV2.geneExp.tsv", f"{GDC}3586c0da-64d0-4b74-a449-5ff4d9136611",
            1_882_540_959, "02e72c33071307ff6570621480d3c90b",
        ),
        "DM": RemoteFile(
            "jhu-usc.edu_PANCAN_merged_HumanMethylation27_HumanMethylation450.betaValue_whitelisted.tsv",
            f"{GDC}d82e2c44-89eb-43d9-b6d3-712732bf6a53", 5_022_150_019, "5cec086f0b002d17befef76a3241e73b",
        ),
    },
    labeller=gdc_labeller,
    expression=log2_of_counts,
    # LAML (about 170) and SKCM (103 primary tumours and about 367 metastases) are not known to the sample.
    counts={
        "ACC": 78, "BLCA": 404, "BRCA": 1068, "CESC": 301, "CHOL": 36, "COAD": 442, "DLBC": 48, "ESCA": 182,
        "GBM": 126, "HNSC": 514, "KICH": 65, "KIRC": 514, "KIRP": 285, "LGG": 514, "LIHC": 368, "LUAD": 508,
        "LUSC": 485, "MESO": 87, "OV": 302, "PAAD": 156, "PCPG": 178, "PRAD": 493, "READ": 154, "SARC": 254,
        "STAD": 412, "TGCT": 149, "THCA": 500, "THYM": 120, "UCEC": 529, "UCS": 57, "UVM": 80, NORMAL: 429,
    },
)
# fmt: on

RECIPES = {"xena": XENA, "gdc": GDC_RECIPE}


# --- small tables


def read_tsv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of a tab-separated table as text, "" where empty. Raises UserError where one is not there."""
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; get the file again") from error
    table.columns = table.columns.str.removeprefix("#")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path}, line 1: no column {missing[0]!r}; has the source's format changed?")
    return table[list(columns)]


def require_one_label(path: Path, samples: pd.Series, labels: pd.Series) -> None:
    """Raise UserError where a sample has no label, or two that differ."""
    pairs = pd.DataFrame({"sample": samples, "label": labels}).drop_duplicates()
    twice = pairs.loc[pairs["sample"].duplicated(), "sample"]
    if len(twice):
        raise UserError(f"{path}: {twice.iloc[0]} has more than one class; get the file again")
    empty = pairs.loc[pairs["label"] == "", "sample"]
    if len(empty):
        raise UserError(f"{path}: {empty.iloc[0]} has no class; get the file again")


def probe_genes(path: Path) -> dict[str, tuple[str, ...]]:
    """Genes of every probe; none of one that is not used: on no known gene, on chromosome Y, or of an SNP."""
    table = read_tsv(path, ["id", "gene", "chrom"])
    used = (table["chrom"] != "chrY") & ~table["id"].str.startswith("rs")
    genes = {}
    for probe, names in zip(table["id"], table["gene"].where(used, ""), strict=True):
        # A gene is listed once for each of its transcripts.
        listed = names.replace(";", ",").split(",")
        genes[probe] = tuple(dict.fromkeys(name for name in listed if name not in ("", ".")))
    if not any(genes.values()):
        raise UserError(f"{path}: no probe has a gene; get the file again")
    return genes


def chromosomes(path: Path) -> dict[str, str]:
    """Of every gene, by its id without its version."""
    table = read_tsv(path, ["id", "chrom"])
    return dict(zip(table["id"].str.partition(".")[0], table["chrom"], strict=True))


def require_known(path: Path, unknown: int, lines: int, matrix: Path) -> None:
    """Raise UserError where so many ids of a matrix are not in its map that the map cannot be whole."""
    if unknown > max(MAX_UNKNOWN * lines, 1):
        raise UserError(
            f"{path}: lacks {unknown:,} of the {lines:,} ids of {matrix.name}: cut off, or of another recipe; "
            "delete it and start again"
        )


# --- which samples


@dataclass(frozen=True)
class Samples:
    """The samples of the build, sorted by id; `columns` are their positions in each matrix, `widths` its columns."""

    labels: dict[str, str]
    columns: dict[str, list[int]]
    widths: dict[str, int]


def choose_samples(files: Mapping[str, Path], recipe: Recipe) -> Samples:
    """The samples that both matrices have. Of several columns of one sample the first by barcode, then by place."""
    label = recipe.labeller(files["annotation"])
    found: dict[str, dict[str, int]] = {}
    labels: dict[str, str] = {}
    widths = {}
    for name in MODALITIES:
        header = read_header(files[name])
        widths[name] = len(header)
        found[name] = {}
        for column in sorted(range(1, len(header)), key=lambda i: (header[i], i)):
            if known := label(header[column]):
                sample, labels[known[0]] = known
                found[name].setdefault(sample, column)
    kept = sorted(found["GE"].keys() & found["DM"].keys())
    if not kept:
        raise UserError(f"{files['GE']} and {files['DM']} have no labelled sample in common; are they of this recipe?")
    columns = {name: [found[name][sample] for sample in kept] for name in MODALITIES}
    return Samples({sample: labels[sample] for sample in kept}, columns, widths)


def check_counts(samples: Samples, recipe: Recipe, accept: bool, console: Console) -> None:
    """Raise UserError unless the recipe's classes have the numbers that they should, or `accept`."""
    found = Counter(samples.labels.values())
    console.print(f"{len(samples.labels)} samples of {len(found)} classes are in both matrices", soft_wrap=True)
    differences = [f"{name} {found[name]} for {n}" for name, n in recipe.counts.items() if found[name] != n]
    if len(found) != recipe.num_classes:
        differences.insert(0, f"{len(found)} classes for {recipe.num_classes}")
    if differences:
        shown = ", ".join(differences[:4]) + (", ..." if len(differences) > 4 else "")
        message = f"the sources do not give what recipe {recipe.source['recipe']} gave before: {shown}"
        if not accept:
            raise UserError(f"{message}; --accept-counts builds all the same")
        console.print(f"warning: {message}", soft_wrap=True)
    if len(samples.labels) != PAPER_SAMPLES:
        console.print(
            f"warning: the paper has {PAPER_SAMPLES} samples, this has {len(samples.labels)}: no public recipe gives "
            "the paper's number",
            soft_wrap=True,
        )


# --- the build


def gene_means(
    name: str, files: Mapping[str, Path], recipe: Recipe, samples: Samples, work: Path, progress: Progress | None = None
) -> GeneMeans:
    """Read one matrix, or the finished or half-finished means of it in `work`."""
    path, columns, width = files[name], samples.columns[name], samples.widths[name]
    genes = probe_genes(files["probes"]) if name == "DM" else None
    depends = [BUILD_VERSION, dict(recipe.source), path.name, path.stat().st_size, columns, width, genes]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()
    job = Pass(path, columns, width, genes, recipe.expression if name == "GE" else unchanged, key)
    if progress is None:
        return reduce_lines(job, work / name)
    task = progress.add_task(f"reading {name}", total=path.stat().st_size)
    means = reduce_lines(job, work / name, lambda position: progress.update(task, completed=position))
    progress.update(task, completed=path.stat().st_size)
    require_known(files["probes"], means.unknown, means.lines, path)
    return means


def kept_genes(name: str, means: GeneMeans, files: Mapping[str, Path]) -> tuple[list[str], NDArray[np.float64]]:
    """The genes that stay, in the order of the file, and each sample's share of missing values in them."""
    on_chromosome: dict[str, str] = {}
    if name == "GE" and "genes" in files:
        on_chromosome = chromosomes(files["genes"])
        unknown = sum(gene.partition(".")[0] not in on_chromosome for gene in means.sums)
        require_known(files["genes"], unknown, len(means.sums), files[name])
    kept = []
    missing = np.zeros(means.size, np.int64)
    for gene, sums in means.sums.items():
        present = means.counts[gene] > 0
        if name == "GE":
            if means.counts[gene].max() > 1:
                raise UserError(f"{files[name]}: gene {gene} has more than one line; get the file again")
            if not sums.any() or on_chromosome.get(gene.partition(".")[0]) == "chrY":
                continue
        if (~present).mean() <= MAX_MISSING:
            kept.append(gene)
            missing += ~present
    if not kept:
        raise UserError(f"{files[name]}: no gene is left; is it the file of this recipe?")
    return kept, missing / len(kept)


def build(files: Mapping[str, Path], recipe: Recipe, samples: Samples, output: Path, console: Console) -> None:
    """Read the matrices and write the folder. The tables lie in memory one after the other, never both."""
    work = output / ".build"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}; choose another with --output") from error
    whole = np.ones(len(samples.labels), bool)
    genes = {}
    with progress_bar(console) as progress:
        for name in MODALITIES:
            means = gene_means(name, files, recipe, samples, work, progress)
            genes[name], missing = kept_genes(name, means, files)
            whole &= missing <= MAX_MISSING
            del means
    if not whole.any():
        raise UserError(f"no sample has {1 - MAX_MISSING:.0%} of its values in both matrices; get the files again")
    ids = [sample for sample, keep in zip(samples.labels, whole, strict=True) if keep]
    tables_folder.begin(output)
    for name in MODALITIES:
        means = gene_means(name, files, recipe, samples, work)
        columns = (means.take(gene)[whole] for gene in genes[name])
        tables_folder.write_table(output, name, ids, genes[name], columns)
        del means, columns
    # A barcode's first 12 characters name the patient, of whom there may be several vials, and normal tissue.
    labels = pd.DataFrame({"label": samples.labels[sample], "group": sample[:12]} for sample in ids).set_axis(ids)
    tables_folder.finish(output, MODALITIES, labels, recipe.source)
    for name in MODALITIES:
        (work / name).unlink()
    work.rmdir()
    console.print(
        f"wrote {output}: {len(ids)} samples ({int((~whole).sum())} left out for missing values), "
        f"{len(genes['GE'])} GE and {len(genes['DM'])} DM features",
        soft_wrap=True,
    )


# --- the files


def fetch(recipe: Recipe, folder: Path, console: Console) -> None:
    """Download what is not in the folder yet."""
    with progress_bar(console) as progress:
        for remote in recipe.files.values():
            if (folder / remote.name).exists():
                continue
            task = progress.add_task(remote.name[:40], total=remote.size)
            download(remote, folder, lambda have, total, t=task: progress.update(t, completed=have, total=total))  # type: ignore[misc]


def locate(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """The files by role. Raises UserError where one is missing, cut off, or not the one that was published."""
    files = {role: folder / remote.name for role, remote in recipe.files.items()}
    for role, path in files.items():
        if not path.is_file():
            raise UserError(f"{path} is missing: without --source it would be downloaded from {recipe.files[role].url}")
    for role, path in files.items():
        check(recipe.files[role], path)
        # Nothing else tells that a plain text without a published size or MD5 is whole.
        if recipe.files[role].md5 is None and path.suffix != ".gz" and not ends_with_newline(path):
            raise UserError(f"{path}: its last line is cut off; delete it and start again")
    return files


def ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read() == b"\n"


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="xena")
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "tcga", help="the folder to build")
    parser.add_argument("--source", type=Path, help="folder of already downloaded files")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads that parse")
    parser.add_argument("--accept-counts", action="store_true", help="build also when classes have other sizes")
    options = parser.parse_args(arguments)
    console = Console()
    recipe = RECIPES[options.recipe]
    downloads = options.source or options.output.parent / "cache" / f"tcga_{options.recipe}"

    def body() -> None:
        if options.workers < 1:
            raise UserError(f"--workers {options.workers}: must be at least 1")
        pa.set_cpu_count(options.workers)
        if tables_folder.is_whole(options.output, recipe.source):
            console.print(f"{options.output} is already there, built by recipe {options.recipe}", soft_wrap=True)
            return
        if (other := tables_folder.written_source(options.output)) and other.get("recipe") != options.recipe:
            raise UserError(f"{options.output} was built by another recipe: delete it or choose another --output")
        if options.source is None:
            fetch(recipe, downloads, console)
        files = locate(recipe, downloads)
        samples = choose_samples(files, recipe)
        check_counts(samples, recipe, options.accept_counts, console)
        build(files, recipe, samples, options.output, console)
        if options.source is None:
            console.print(f"{downloads} is no longer needed", soft_wrap=True)

    return run_script(options.output, body)


if __name__ == "__main__":
    sys.exit(main())
