"""Files that are there as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from multimodal_loss.errors import UserError


class WriteError(UserError):
    """A file could not be written."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader sees the old bytes or the new, never a
    part.

    Raises UserError when the file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    # torch.save reports a failed write as a RuntimeError of its zip writer.
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "writ" not in str(error) and "enforce fail" not in str(error):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the disk is full or not writable"
        raise WriteError(f"cannot write {path}: {reason}; make room and start the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)
