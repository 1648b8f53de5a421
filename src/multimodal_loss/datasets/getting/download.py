"""Downloads one large file, and goes on where an interrupted download stopped."""

import hashlib
import http.client
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multimodal_loss.errors import UserError

PIECE = 1 << 20
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class RemoteFile:
    """`size` in bytes and `md5` where the source publishes them; they are checked."""

    name: str
    url: str
    size: int | None = None
    md5: str | None = None


def download(remote: RemoteFile, folder: Path, moved: Callable[[int, int | None], None]) -> None:
    """Put the file into `folder` unless it is there. A part lies in `<name>.part` until it is whole.

    A connection that breaks is opened again as long as each attempt brings something. `moved` is told the bytes had and
    the bytes in all (None where the server does not say).

    Raises:
        UserError: the server refuses, the connection brings nothing more, the disk is too small, or the file that came
            is not the one that was published.
    """
    target = folder / remote.name
    if target.exists():
        return
    part = folder / f"{remote.name}.part"
    while True:
        before = _size(part)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fetch(remote.url, part, moved)
            break
        except urllib.error.HTTPError as error:
            raise UserError(
                f"{remote.url} answers {error.code}: has the source moved? Get {remote.name} by hand and put it "
                f"into {folder}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if _size(part) <= before:
                raise UserError(
                    f"{remote.name}: the download stopped at byte {before} ({getattr(error, 'reason', error)}); "
                    "the same command goes on from there"
                ) from error
    check(remote, part)
    part.rename(target)


def check(remote: RemoteFile, path: Path) -> None:
    """Raise UserError unless the file has the size and the MD5 that were published."""
    if remote.size is not None and _size(path) != remote.size:
        raise UserError(f"{path}: {_size(path)} bytes where {remote.size} belong; delete it and get it again")
    if remote.md5 is None:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != remote.md5:
        raise UserError(f"{path}: MD5 is {digest}, not the published {remote.md5}; delete it and get it again")


def fetch(url: str, part: Path, moved: Callable[[int, int | None], None], most: int | None = None) -> None:
    """One connection: append to `part` what is missing, or write it anew where the server sends it from the start.

    Without a length the end of the connection is the end of the file. `most`: bytes that the file surely does not pass.

    Raises:
        OSError, HTTPException: the server refuses (HTTPError), or what it sends is no part of such a file.
        UserError: the disk is too small.
    """
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and total and int(total[1]) == have:  # nothing is missing
            return
        if error.code == 416 and have:  # longer than the file: not a part of it
            part.unlink()
            return fetch(url, part, moved, most)
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # never overwrite a part with this
            raise ConnectionError("it sent a web page")
        if response.status == 206:
            span = re.fullmatch(rf"bytes {have}-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not span:
                raise ConnectionError(f"it sent another part than from byte {have}")
            total_size: int | None = int(span[1])
        else:  # from the start: it was asked for, or the server knows no ranges
            length = response.headers.get("Content-Length")
            have, total_size = 0, int(length) if length else None
        if most is not None and total_size is not None and total_size > most:
            raise ConnectionError(f"it announces {total_size:,} bytes, more than {most:,}")
        if total_size is not None and total_size - have > (free := shutil.disk_usage(part.parent).free):
            raise UserError(f"{part.parent}: {part.stem} needs {total_size - have} bytes more, {free} are free")
        with open(part, "ab" if have else "wb") as file:
            while (most is None or have < most) and (piece := response.read(PIECE)):
                file.write(piece)
                have += len(piece)
                moved(have, total_size)
    if total_size is not None and have < total_size:
        raise ConnectionError(f"the connection ended after {have:,} of {total_size:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
