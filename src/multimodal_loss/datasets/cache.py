"""Folders of prepared arrays that are there as a whole or not at all, and what names and identifies them."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from multimodal_loss.errors import UserError

Content = TypeVar("Content")


def cached(
    folder: Path, mark: str, what: str, write: Callable[[Path], None], read: Callable[[Path], Content]
) -> Content:
    """What `read` gives of a folder, which `write` fills first unless it is there, with its file `mark`.

    Where another process was first, with the same bytes, those stay. Raises UserError, one line about `what`, for a
    folder that cannot be written or read.
    """
    try:
        if not (folder / mark).exists():
            _make(folder, mark, write)
    except OSError as error:
        raise UserError(f"cannot write {what} to {folder}: {error.strerror or error}") from error
    try:
        return read(folder)
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: {what} are damaged ({error}); delete this folder") from error


def _make(folder: Path, mark: str, write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()  # others may read it, as the umask says; the temporary folder is its owner's alone
        write(made)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / mark).exists():
                raise


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """Hexadecimal sha256 of the bytes of contiguous arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()


def key_of(content: Any) -> str:
    """16 hexadecimal digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
