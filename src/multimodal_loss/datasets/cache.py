"""Folders of prepared arrays that are there as a whole or not at all, and what names and identifies them."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(folder: Path, mark: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes `folder` at the end of the block.

    Where `mark` exists by then, another process was first, with the same bytes, and they stay. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()  # others may read it, as the umask says; the temporary folder is its owner's alone
        yield made
        try:
            made.rename(folder)
        except OSError:
            if not mark.exists():
                raise


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(content: Any) -> str:
    """16 hexadecimal digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
