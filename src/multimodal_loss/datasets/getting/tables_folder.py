"""Writes a "tables folder", what `multimodal_loss.datasets.TablesDataset` reads:

GE.parquet, DM.parquet   one file a modality; first column `id`, then one numeric column a feature; NaN is missing
labels.csv               header `id,label` or `id,label,group`, samples in the order of the tables
SOURCE.json              written last: where the files come from, and the SHA-256 of each
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from multimodal_loss.datasets.cache import sha256
from multimodal_loss.datasets.table_files import LABELS
from multimodal_loss.errors import UserError
from multimodal_loss.files import write_atomically

SOURCE = "SOURCE.json"


def begin(folder: Path) -> None:
    """Make the folder if need be. Its SOURCE.json goes first, so that it is not `is_whole` until `finish`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SOURCE).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another with --output") from error


def write_table(
    folder: Path, name: str, ids: Sequence[str], features: Sequence[str], columns: Iterable[NDArray[Any]]
) -> None:
    """Write one modality: `columns` are the features' values, each (len(ids),). One column after the other is encoded,
    straight from its array: no second copy of the table is made.
    """
    arrays = [pa.array(ids, pa.string()), *(pa.array(column) for column in columns)]
    table = pa.Table.from_arrays(arrays, names=["id", *features])
    write_atomically(
        folder / f"{name}.parquet",
        # Measured numbers hardly repeat: a dictionary of them only costs time.
        lambda file: pa.parquet.write_table(table, file, compression="zstd", use_dictionary=False),
    )


def finish(folder: Path, modalities: Iterable[str], labels: pd.DataFrame, source: Mapping[str, str]) -> None:
    """Write the labels (index = sample ids, in the tables' order) and then SOURCE.json."""
    text = labels.rename_axis(index="id").to_csv()
    write_atomically(folder / LABELS, lambda file: file.write(text.encode()))
    names = [*(f"{name}.parquet" for name in modalities), LABELS]
    text = json.dumps({**source, "files": {name: sha256(folder / name) for name in names}}, indent=2) + "\n"
    write_atomically(folder / SOURCE, lambda file: file.write(text.encode()))


def written_source(folder: Path) -> dict[str, Any] | None:
    """What SOURCE.json says, None where there is none that can be read."""
    try:
        content = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_whole(folder: Path, source: Mapping[str, str]) -> bool:
    """Whether the folder was written to its end from this `source` and no byte of its files has changed since."""
    written = written_source(folder)
    if written is None or not isinstance(files := written.pop("files", None), dict) or written != dict(source):
        return False
    try:
        return all(sha256(folder / name) == digest for name, digest in files.items())
    except OSError:
        return False
