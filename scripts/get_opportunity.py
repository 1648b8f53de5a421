"""Get OPPORTUNITY: download the archive, check it, take out the 18 recordings that are used, and prepare them.

    python scripts/get_opportunity.py                       # make data-opportunity
    python scripts/get_opportunity.py --archive FILE        # of an archive that you downloaded yourself

The archive (307 MB) comes from UCI, at its present or its former address; an interrupted download goes on where it
stopped. Only the recordings of subjects 1 to 3 are taken out (0.7 GB), each checked against the sha256 of the published
file, and the archive is deleted. The prepared arrays (0.3 GB) go to data/cache.
"""

import argparse
import errno
import hashlib
import http.client
import stat
import sys
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from multimodal_loss.command import run_script
from multimodal_loss.datasets.base import MultimodalData
from multimodal_loss.datasets.cache import sha256_of
from multimodal_loss.datasets.getting.download import fetch
from multimodal_loss.datasets.opportunity import GENERATED_MARKER, OpportunityDataset
from multimodal_loss.datasets.opportunity_channels import RUNS, TASKS, PublishedFile, manifest
from multimodal_loss.errors import UserError

ADDRESSES = (
    "https://archive.ics.uci.edu/static/public/226/opportunity+activity+recognition.zip",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00226/OpportunityUCIDataset.zip",
)
PAGE = "https://archive.ics.uci.edu/dataset/226/opportunity+activity+recognition"
ARCHIVE_BYTES = 306_636_009
ROUNDS = 3  # through the addresses, each going on where the last one stopped
CHUNK = 1 << 20

# Of the profile ordonez2016, as others printed them. The test part is the released code's; classes are in our order.
WINDOWS = "windows to train on, to validate and to test"
PUBLISHED_COUNTS = {
    WINDOWS: [41_416, 5_078, 9_894],
    "test windows of each class, locomotion": [2042, 3101, 2272, 2016, 463],
    "test windows of each class, gestures": (
        [8237, 58, 95, 60, 83, 228, 160, 100, 77, 39, 42, 40, 26, 67, 61, 99, 317, 105]
    ),
}


def download(addresses: Iterable[str], archive: Path, expected: int = ARCHIVE_BYTES) -> None:
    """Fetch the archive from the first address that gives it. Raises UserError if none does."""
    partial = archive.with_name(f"{archive.name}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    for address in addresses:
        try:
            if not partial.exists() or partial.stat().st_size != expected:
                fetch(address, partial, _tell_tenths(expected), most=2 * expected)
            if not zipfile.is_zipfile(partial):
                size = partial.stat().st_size
                if size < expected and _begins_as_zip(partial):  # cut off by a server that told no length
                    raise ConnectionError(f"the connection ended after {size:,} of {expected:,} bytes")
                partial.unlink()
                raise ConnectionError("what it sent is no zip archive")
        except urllib.error.HTTPError as error:
            reasons[address] = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons[address] = " ".join(str(getattr(error, "reason", error)).split())
        else:
            if (size := partial.stat().st_size) != expected:
                print(f"{size:,} bytes where {expected:,} were published; each file in it is checked", file=sys.stderr)
            partial.replace(archive)
            return
        print(f"{address}: {reasons[address]}", file=sys.stderr, flush=True)
    told = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
    raise UserError(
        f"the archive could not be downloaded ({told}); start again to go on, or download it with a browser from {PAGE}"
        " and run scripts/get_opportunity.py --archive FILE"
    )


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _tell_tenths(expected: int) -> Callable[[int, int | None], None]:
    """A line after each tenth of the archive."""
    told = 0

    def moved(have: int, total: int | None) -> None:
        nonlocal told
        if (tenth := have * 10 // (total or expected)) > told:
            told = tenth
            print(f"{have:,} of {total or expected:,} bytes", file=sys.stderr, flush=True)

    return moved


def extract(archive: Path, folder: Path, runs: Sequence[str], published: dict[str, PublishedFile]) -> None:
    """Take recordings out of the archive, each under its own name in `folder` once its bytes are the published ones.

    Raises UserError for anything that is not as published, OSError for a disk that is full; nothing is ever written
    outside `folder`, nor more bytes than are published.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as content:
            members = _members(archive, content, runs)
            for run, member in members.items():
                if member.file_size != published[run].size:
                    raise UserError(
                        f"{archive}: {member.filename} has {member.file_size:,} bytes where {published[run].size:,} are"
                        " published; get another copy"
                    )
            for run, member in members.items():
                with content.open(member) as source:
                    _write_checked(source, folder / f"{run}.dat", published[run], f"{archive}: {member.filename}")
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset that the archive made up
            raise
        raise UserError(f"{archive}: a damaged or unreadable archive ({error}); get another copy") from error


def _members(archive: Path, content: zipfile.ZipFile, runs: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """Each recording's member, found by the end of its path. Refuses an archive with a path or link that leads out."""
    wanted = {f"{run}.dat": run for run in runs}
    found: dict[str, zipfile.ZipInfo] = {}
    for member in content.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename:
            raise UserError(f"{archive}: the member {member.filename!r} points outside the archive; get another copy")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive}: the member {member.filename!r} is a link or device; get another copy")
        run = wanted.get(path.name)
        if run is None or member.is_dir():
            continue
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{archive}: {member.filename} is packed in an unusual way; get another copy")
        if run in found:
            raise UserError(f"{archive}: two members are called {path.name}; get another copy")
        found[run] = member
    missing = [name for name, run in wanted.items() if run not in found]
    if missing:
        raise UserError(f"{archive}: {missing[0]} is not in it; the archive of {PAGE} is needed")
    return found


def _write_checked(source: IO[bytes], target: Path, published: PublishedFile, name: str) -> None:
    temporary = target.with_name(f".{target.name}.part")
    digest, size = hashlib.sha256(), 0
    try:
        with temporary.open("wb") as file:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > published.size:
                    raise UserError(f"{name} holds more than the {published.size:,} published bytes; get another copy")
                digest.update(chunk)
                file.write(chunk)
        if size != published.size or digest.hexdigest() != published.sha256:
            raise UserError(f"{name} is not the published file ({size:,} bytes, another sha256); get another copy")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def missing_runs(folder: Path, index: Path) -> list[str]:
    """Recordings that are not in the folder with the published bytes."""
    there = [run for run in RUNS if (folder / f"{run}.dat").is_file()]
    digests = dict(zip(there, sha256_of([folder / f"{run}.dat" for run in there], index), strict=True))
    return [run for run in RUNS if digests.get(run) != manifest()[run].sha256]


def get(folder: Path, cache_dir: Path, archive: Path | None) -> None:
    """What is missing, and only that."""
    if (folder / GENERATED_MARKER).exists():
        raise UserError(
            f"{folder}: holds generated data (file {GENERATED_MARKER}); give another --folder, or delete it"
        )
    runs = missing_runs(folder, cache_dir / "opportunity-files.json")
    if runs:
        if archive is not None:
            extract(archive, folder, runs, manifest())
        else:
            _download_and_extract(folder, runs)
    check_counts({task: OpportunityDataset(folder, cache_dir, task).load() for task in TASKS})
    sizes = " / ".join(f"{number:,}" for number in PUBLISHED_COUNTS[WINDOWS])
    print(f"{folder}: {len(RUNS)} recordings; {sizes} {WINDOWS}; as many test windows of each class as published")


def _download_and_extract(folder: Path, runs: Sequence[str]) -> None:
    downloaded = folder / "opportunity.zip"
    if not downloaded.exists():
        download(ADDRESSES * ROUNDS, downloaded)
    try:
        extract(downloaded, folder, runs, manifest())
    except UserError:  # a wrong archive is not used again
        downloaded.unlink(missing_ok=True)
        raise
    downloaded.unlink()


def check_counts(data: dict[str, MultimodalData]) -> None:
    """Compare the windows of both tasks with what others counted. Raises UserError that says what differs.

    The files have the published checksums by now; this tells whether they were read and cut as others did.
    """
    some = data["gestures"]
    found = {WINDOWS: [0 if split is None else len(split) for split in (some.train, some.validation, some.test)]}
    for task, prepared in data.items():
        classes = prepared.test.target.bincount(minlength=len(prepared.classes))
        found[f"test windows of each class, {task}"] = classes.tolist()
    wrong = [
        f"{what}: {found[what]} where {published} are published"
        for what, published in PUBLISHED_COUNTS.items()
        if found[what] != published
    ]
    if wrong:
        raise UserError(
            f"the prepared data are not as published ({'; '.join(wrong)}); delete the folders opportunity-* of the"
            " cache and start again; if this stays, it is an error of this program"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/opportunity"))
    parser.add_argument("--cache-dir", type=Path, default=Path("data/cache"))
    parser.add_argument("--archive", type=Path, help="an archive that is here already; it is left where it is")
    arguments = parser.parse_args()
    return run_script(arguments.folder, lambda: get(arguments.folder, arguments.cache_dir, arguments.archive))


if __name__ == "__main__":
    sys.exit(main())
