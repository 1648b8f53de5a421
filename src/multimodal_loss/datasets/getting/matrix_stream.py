"""Reads a matrix of tens of gigabytes of tab-separated text (a line a feature, a column a sample) in one pass, and
keeps only the mean of each gene's lines: the methylation matrix of TCGA has 485,577 probes of 9,736 samples.

One thread decompresses the next block while pyarrow parses this one. The sums are saved every few minutes, so that an
interrupted pass goes on where the last save was, to the same bytes.
"""

import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from multimodal_loss.errors import UserError
from multimodal_loss.files import write_atomically

Array = NDArray[np.float32]

BLOCK_BYTES = 32 << 20  # of text: two hundred lines of the methylation matrix
SAVE_SECONDS = 300.0  # a save writes up to 3 GB
MISSING = ["", "NA", "NaN", "nan", "null", "NULL"]


@dataclass
class GeneMeans:
    """Sums over a gene's lines, and how many of its lines had a value, for each of `size` samples.

    Lines are added one by one in the order of the file: the means do not depend on how the text was cut into blocks.
    `lines` were there, of which `unknown` have an id that is not among those that genes were given for.
    """

    size: int
    lines: int = 0
    unknown: int = 0
    sums: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, NDArray[np.uint16]] = field(default_factory=dict)

    def add(self, genes: Sequence[str], values: Array) -> None:
        """Add a line's `values` (size,) to each of its genes; NaN is no value."""
        present = ~np.isnan(values)
        filled = np.where(present, values, np.float32(0))
        for gene in genes:
            if gene not in self.sums:
                self.sums[gene] = np.zeros(self.size, np.float32)
                self.counts[gene] = np.zeros(self.size, np.uint16)
            self.sums[gene] += filled
            self.counts[gene] += present

    def take(self, gene: str) -> Array:
        """Mean over the lines that have a value, (size,); NaN where none has. Frees the gene's sums."""
        with np.errstate(invalid="ignore"):
            return np.divide(self.sums.pop(gene), self.counts.pop(gene), dtype=np.float32)


@dataclass(frozen=True)
class Pass:
    """One reading of `path`, a file of `width` columns, of which the first, 0, is the line's id.

    `columns` are the positions of the samples to keep. `genes` are those that a line counts for, by its id: lines of no
    gene and of an unknown id are skipped; None where each line is a gene of its own. `transform` is applied to the
    values. `key` says everything that the result depends on: a saved state with another key is not used.
    """

    path: Path
    columns: Sequence[int]
    width: int
    genes: Mapping[str, Sequence[str]] | None
    transform: Callable[[Array], Array]
    key: str


def read_header(path: Path) -> list[str]:
    """The column names: the first is the id's. Raises UserError for an unreadable file or one without columns."""
    for _, block in _line_blocks(path, 1 << 16):
        names = block[: block.index(b"\n")].decode("utf-8", "replace").rstrip("\r").split("\t")
        if len(names) > 1:
            return names
        break
    raise UserError(f"{path}, line 1: no tab-separated column names; get the file again")


def reduce_lines(job: Pass, state: Path, moved: Callable[[int], None] = lambda position: None) -> GeneMeans:
    """The gene means of a file, from the saved `state` on if there is one. `moved` is told the position in the file.

    The finished means stay in `state`: a second call only reads them.

    Raises:
        UserError: the file cannot be read, is cut off, or has a line that is not an id and `width - 1` numbers.
    """
    means, done, complete = _load(state, job)
    if complete:
        return means
    line, saved = 0, time.monotonic()
    for position, block in _ahead(_line_blocks(job.path, BLOCK_BYTES)):
        moved(position)
        first = line + 1
        line += block.count(b"\n")
        if line <= done:  # read before the interruption; blocks are cut at the same places every time
            continue
        _add_block(job, block, first, means)
        if time.monotonic() - saved >= SAVE_SECONDS:
            _save(state, job, means, line, complete=False)
            saved = time.monotonic()
    if not line:
        raise UserError(f"{job.path}: the file is empty; get it again")
    _save(state, job, means, line, complete=True)
    return means


def _add_block(job: Pass, block: bytes, first_line: int, means: GeneMeans) -> None:
    """Add the lines of a block, of which the first is line `first_line` of the file; line 1 has the column names."""
    numbers: list[int] = []  # of the lines that are wanted, their genes, and their text behind the id
    genes: list[Sequence[str]] = []
    texts: list[bytes] = []
    for number, line in enumerate(block.split(b"\n")[:-1], first_line):
        if number == 1 or not line.strip():
            continue
        if line.count(b"\t") != job.width - 1:
            found = line.count(b"\t") + 1
            raise UserError(f"{job.path}, line {number}: {found} columns where line 1 has {job.width}; get it again")
        end = line.index(b"\t")
        name = line[:end].decode("utf-8", "replace")
        own = (name,) if job.genes is None else job.genes.get(name)
        means.lines += 1
        means.unknown += own is None
        if own:
            numbers.append(number)
            genes.append(own)
            texts.append(line[end + 1 :])
    if not texts:
        return
    try:
        values = _parse(texts, job)
    except (pa.ArrowInvalid, ValueError):
        for number, text in zip(numbers, texts, strict=True):
            _check_line(text, number, job)
        raise
    for names, row in zip(genes, job.transform(values), strict=True):
        means.add(names, row)


def _parse(texts: Sequence[bytes], job: Pass) -> Array:
    """Values (lines, columns kept); NaN is missing. Raises ArrowInvalid or ValueError for what is not a number.

    One number a line is half as much work for pyarrow as thousands of columns of few lines.
    """
    cells = b"\n".join(texts).replace(b"\t", b"\n") + b"\n"
    table = pa.csv.read_csv(
        pa.BufferReader(cells),
        read_options=pa.csv.ReadOptions(column_names=["value"]),
        parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(column_types={"value": pa.float32()}, null_values=MISSING),
    )
    values: Array = table["value"].to_numpy().reshape(len(texts), job.width - 1)[:, np.asarray(job.columns) - 1]
    if np.isinf(values).any():
        raise ValueError("an infinite value")
    return values


def _check_line(text: bytes, number: int, job: Pass) -> None:
    """Raise UserError if this line's values cannot be parsed."""
    try:
        _parse([text], job)
    except (pa.ArrowInvalid, ValueError) as error:
        found = re.search("invalid value '(.*)'", str(error), re.DOTALL)
        reason = f"{found[1][:50]!r} is not a number" if found else " ".join(str(error).split())
        raise UserError(f"{job.path}, line {number}: {reason}; get the file again") from error


def _ahead(blocks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The same blocks, each made by another thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, blocks, None)
        while (block := future.result()) is not None:
            future = pool.submit(next, blocks, None)
            yield block


def _line_blocks(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """The text of a plain or gzip file in blocks of whole lines, at least `size` bytes but for the last, each with the
    position in the file.
    """
    pieces: list[bytes] = []
    held, position = 0, 0
    for position, text in _text(path, min(size, 1 << 20)):
        pieces.append(text)
        held += len(text)
        if held >= size and b"\n" in text:
            joined = b"".join(pieces)
            end = joined.rindex(b"\n") + 1
            yield position, joined[:end]
            pieces, held = [joined[end:]], len(joined) - end
    rest = b"".join(pieces)
    if rest:
        yield position, rest if rest.endswith(b"\n") else rest + b"\n"


def _text(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """The text of the file, `size` bytes at a time, and the position. A gzip file may have several members (bgzip)."""
    try:
        with pa.OSFile(str(path)) as file:
            text = pa.CompressedInputStream(file, "gzip") if path.suffix == ".gz" else file
            while block := text.read(size):
                yield file.tell(), block
    except OSError as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; get the file again") from error


def _save(state: Path, job: Pass, means: GeneMeans, line: int, complete: bool) -> None:
    counted = {"lines": means.lines, "unknown": means.unknown, "genes": list(means.sums)}
    head = {"key": job.key, "block": BLOCK_BYTES, "line": line, "complete": complete, **counted}

    def write(file: io.BufferedIOBase) -> None:
        file.write(json.dumps(head).encode() + b"\n")
        for gene in means.sums:
            file.write(means.sums[gene].data)
            file.write(means.counts[gene].data)

    write_atomically(state, write)  # type: ignore[arg-type]


def _load(state: Path, job: Pass) -> tuple[GeneMeans, int, bool]:
    """The saved means, the last line in them, and whether it was the file's last; empty ones if none are usable."""
    means = GeneMeans(len(job.columns))
    try:
        with open(state, "rb") as file:
            head = json.loads(file.readline())
            if (head["key"], head["block"]) != (job.key, BLOCK_BYTES):
                return means, 0, False
            means.lines, means.unknown = head["lines"], head["unknown"]
            for gene in head["genes"]:
                means.sums[gene] = np.fromfile(file, np.float32, means.size)
                means.counts[gene] = np.fromfile(file, np.uint16, means.size)
                if len(means.counts[gene]) < means.size:
                    raise ValueError("cut off")
    except FileNotFoundError:
        return means, 0, False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{state}: not a saved state ({error}); delete it and start the same command again") from error
    return means, head["line"], head["complete"]
