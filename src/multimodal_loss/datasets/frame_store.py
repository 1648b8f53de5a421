"""JPEG files in one: their bytes one after another in `frames.bin`, and where each lies in `index.npy` beside it.

A frame is known by a number, its key. The bytes come first, then the index, which is written as a whole: what it does
not list was never stored. A reader maps the bytes into memory and decodes from there, without opening a file a frame.
"""

import fcntl
import mmap
import os
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from multimodal_loss.errors import MissingData, UserError
from multimodal_loss.files import write_atomically

ENTRY = np.dtype(
    [("key", "<u8"), ("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("height", "<u2"), ("width", "<u2")]
)
Keys = NDArray[np.uint64]
Entries = NDArray[Any]
Bytes = NDArray[np.uint8]
Mode = Literal["RGB", "GRAY"]
LARGEST = 1 << 24  # pixels: a header of a few bytes must not ask for all memory


class DamagedFrame(Exception):
    """Bytes that are no whole JPEG, or not those that were stored; the text says which."""


def decode(jpeg: Bytes | bytes, mode: Mode, buffer: Bytes | None = None) -> Bytes:
    """The picture (height, width, channels) uint8 of a JPEG, in `buffer` where it is as large. Raises DamagedFrame."""
    try:
        picture: Bytes = _codec().decode_jpeg(jpeg, mode, buffer=buffer)
    except ValueError as error:
        raise DamagedFrame(f"not decodable as JPEG ({' '.join(str(error).split())[:100]})") from error
    return picture


def check(jpeg: bytes) -> tuple[int, int]:
    """Height and width of a JPEG that is whole and decodes. Raises DamagedFrame."""
    try:
        height, width, *_ = _codec().decode_jpeg_header(jpeg)
    except ValueError as error:
        raise DamagedFrame(f"not a JPEG ({error})") from error
    if height * width > LARGEST:
        raise DamagedFrame(f"{width} x {height} pixels")
    decode(jpeg, "GRAY")
    # What is missing at the end is filled up without a word where it is little.
    if not jpeg.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise DamagedFrame("cut short")
    return int(height), int(width)


def _codec() -> Any:
    """libjpeg-turbo: pixel by pixel what OpenCV gives, and the fastest where memory is reused."""
    try:
        import simplejpeg
    except ImportError as error:
        raise UserError(
            "frames are decoded by simplejpeg, which is not installed: pip install -e '.[media]'"
        ) from error
    return simplejpeg


@dataclass
class FrameStore:
    """Reads frames. Cheap to hand to another process, which maps the bytes itself.

    `entries` (ENTRY), sorted by key.
    """

    folder: Path
    entries: Entries

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises MissingData where there is no store, UserError for one that is damaged."""
        return cls(folder, _read_index(folder))

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Where the entries of the keys are, in their shape; -1 where a key is not stored."""
        known = self.entries["key"]
        if not len(known):
            return np.full(keys.shape, -1)
        found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[found] == keys, found, -1)

    def jpeg(self, row: int) -> Bytes:
        """The bytes (size,) uint8 of a frame, where they lie in the file. Raises DamagedFrame unless they are those
        that were stored.
        """
        _, offset, size, crc, *_ = self.entries[row].item()
        stored = self._bytes[offset : offset + size]
        if len(stored) != size or zlib.crc32(stored.data) != crc:
            raise DamagedFrame("the bytes are not those that were stored")
        return stored

    @property
    def _bytes(self) -> Bytes:
        if "_mapped" not in self.__dict__:
            try:
                with open(self.folder / "frames.bin", "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise UserError(f"{self.folder / 'frames.bin'}: cannot be read ({error})") from error
            if hasattr(mapped, "madvise"):  # frames are read in a random order
                mapped.madvise(mmap.MADV_RANDOM)
            self._mapped = np.frombuffer(mapped, np.uint8)
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "entries": self.entries}


class StoreWriter:
    """Adds frames to a store, which it makes if there is none. One process at a time; killed, it loses what was added
    after the last `commit`, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._new = folder, dict[int, tuple[Any, ...]]()
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(folder / ".lock", "w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.entries = _read_index(folder) if (folder / "index.npy").exists() else np.empty(0, ENTRY)
                self._file = stack.enter_context(open(folder / "frames.bin", "ab"))
                self._end = max((self.entries["offset"] + self.entries["size"]).tolist(), default=0)
                if os.fstat(self._file.fileno()).st_size < self._end:
                    raise UserError(f"{folder / 'frames.bin'}: cut short; delete {folder} and start again")
                self._file.truncate(self._end)  # what a killed process left
            except BlockingIOError as error:
                raise UserError(f"{folder}: another process is writing there; wait until it has ended") from error
            except OSError as error:
                raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def missing(self, keys: Keys) -> Keys:
        return keys[FrameStore(self._folder, self.entries).rows(keys) < 0]

    def add(self, key: int, jpeg: bytes, size: tuple[int, int]) -> None:
        """A frame of `size` (height, width); one that has the same key is replaced. Raises UserError, disk full."""
        try:
            self._file.write(jpeg)
        except OSError as error:
            raise self._full(error) from error
        self._new[key] = (key, self._end, len(jpeg), zlib.crc32(jpeg), *size)
        self._end += len(jpeg)

    def forget(self, keys: Keys) -> None:
        """As if these had never been added; their bytes stay in the file. At once, without `commit`."""
        self.entries = self.entries[~np.isin(self.entries["key"], keys)]
        self._write_index()

    def commit(self) -> None:
        """Make what was added since the last time part of the store."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from error
        kept = self.entries[~np.isin(self.entries["key"], list(self._new))]
        entries = np.concatenate([kept, np.array(list(self._new.values()), ENTRY)])
        self.entries = entries[np.argsort(entries["key"])]
        self._new.clear()
        self._write_index()

    def _write_index(self) -> None:
        write_atomically(self._folder / "index.npy", lambda file: np.save(file, self.entries))

    def _full(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._folder}/frames.bin: {error.strerror}; start the same command again")


def _read_index(folder: Path) -> Entries:
    path = folder / "index.npy"
    try:
        with path.open("rb") as file:
            entries: Entries = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingData(f"{path} does not exist") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); delete {folder} and make it again") from error
    if entries.dtype != ENTRY or entries.ndim != 1:
        raise UserError(f"{path}: not the index of a frame store; delete {folder} and make it again")
    return entries
