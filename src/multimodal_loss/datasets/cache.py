"""Folders of prepared arrays that are there as a whole or not at all, and what names and identifies them."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from multimodal_loss.errors import UserError
from multimodal_loss.files import WriteError, reason, temporary_folder, write_atomically

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
            with temporary_folder(folder) as made:
                write(made)
                try:
                    made.rename(folder)
                except OSError:
                    if not (folder / mark).exists():
                        raise
    except OSError as error:
        raise WriteError(f"cannot write {what} to {folder}: {reason(error)}") from error
    try:
        return read(folder)
    except (OSError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and error.strerror:
            raise UserError(f"cannot read {what} in {folder}: {error.strerror}") from error
        raise UserError(f"{folder}: {what} are damaged ({error}); delete this folder") from error


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """Hexadecimal sha256 of the bytes of contiguous arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()


def sha256_of(paths: Sequence[Path], index: Path | None) -> list[str]:
    """sha256 of each file. `index` remembers them by path, size and time of change, so that gigabytes are read once."""
    names = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    known = _read_index(index)
    new = {name: path for name, path in zip(names, paths, strict=True) if name not in known}
    with ThreadPoolExecutor(2) as pool:  # hashing does not hold the GIL
        known |= zip(new, pool.map(sha256, new.values()), strict=True)
    if index is not None and new:
        index.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(index, lambda file: file.write(json.dumps(known, indent=0).encode()))
    return [known[name] for name in names]


def _read_index(index: Path | None) -> dict[str, str]:
    try:
        content = json.loads(index.read_text()) if index is not None else {}
    except (OSError, ValueError):  # not there yet, or damaged: it is only a memory
        content = {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: digest for name, digest in entries if isinstance(digest, str)}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: another waits until the first has left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def key_of(content: Any) -> str:
    """16 hexadecimal digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
