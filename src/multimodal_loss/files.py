"""Files and folders that are there as a whole or not at all."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from multimodal_loss.errors import UserError


class WriteError(UserError):
    """A file could not be written."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader sees the old bytes or the new, never a
    part.

    Raises WriteError when the file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        remove_leftovers(path.parent, f".{path.name}.*.tmp")
        with _held(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # while it is held: what nobody holds is a leftover
    # torch.save reports a failed write as a RuntimeError of its zip writer.
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "writ" not in str(error) and "enforce fail" not in str(error):
            raise
        raise WriteError(f"cannot write {path}: {reason(error)}; make room and start the same command again") from error
    finally:
        with contextlib.suppress(OSError):  # a parent that is no folder
            temporary.unlink(missing_ok=True)


def _held(path: Path) -> BinaryIO:
    """A new file that another process takes for no leftover, although it can be locked only after it is there."""
    while True:
        file = open(path, "wb")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # removed in between


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """A folder beside `place`, to be renamed to it. What killed processes left of such folders is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(place.parent, ".*.half-built")
    folder, lock = _held_folder(place)
    try:
        made = folder / place.name
        made.mkdir()  # others may read it, as the umask says; the temporary folder is its owner's alone
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _held_folder(place: Path) -> tuple[Path, int]:
    """A new folder and its lock, which holds it as `_held` does a file."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".half-built", dir=place.parent))
        with contextlib.ExitStack() as undo, contextlib.suppress(FileNotFoundError):  # removed before it was opened
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            lock = os.open(folder, os.O_RDONLY)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                undo.pop_all()
                return folder, lock


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Temporary files and folders that nobody holds: whoever made them was killed."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # held, another user's, or gone
            held = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(held), path.stat()):  # not its maker's next one under that name
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(held)


def reason(error: BaseException) -> str:
    """Why a file could not be written or read; NumPy and torch count bytes where the disk is full."""
    told = error.strerror if isinstance(error, OSError) else None
    return told or "the disk is full or not writable"
