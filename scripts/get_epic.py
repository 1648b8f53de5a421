"""Prepare the clips of EPIC-KITCHENS-100 that Table 4 is computed on: check the annotations, store the frames.

    python scripts/get_epic.py                # make data-epic: what is needed, what is there; stores what it can
    python scripts/get_epic.py --download     # gets the rest, too: 176 tars, 105 GB; --delete-tars keeps 9 GB
    python scripts/get_epic.py --check        # reads every stored frame again

The folder (data/epic) needs EPIC_100_train.csv and EPIC_100_validation.csv of the official release, and below
EPIC-KITCHENS, or in the folder of --source, what the official downloader puts there, for P01, P08 and P22:

    P01/rgb_frames/P01_01.tar  P01/flow_frames/P01_01.tar  or folders P01_01 of loose frames (flow: in u and v)

Of each clip only 16 RGB frames and 16 flow fields are ever used: 238,413 and 232,800 pairs in all. They are taken out
of the tars, which are never unpacked, checked, and put as they are, byte for byte, into one file with an index
(data/epic/frames, about 9 GB); then the tars can go. What is stored stays stored: interrupted, the same command goes
on. Where the official list of checksums lies in the folder (tars.csv, or md5.csv of the official download scripts),
tars are checked by it; --download gets it, and the annotations.
"""

import argparse
import hashlib
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from multimodal_loss.command import run_script
from multimodal_loss.datasets import epic_annotations as epic
from multimodal_loss.datasets.epic import GENERATED_MARKER, MODALITIES, STORE
from multimodal_loss.datasets.frame_store import DamagedFrame, FrameStore, Keys, StoreWriter, check
from multimodal_loss.datasets.getting.download import RemoteFile, download
from multimodal_loss.errors import MissingData, UserError

EPIC_55 = "https://data.bris.ac.uk/datasets/3h91syskeag572hl6tvuovwv4d"
EPIC_100 = "https://data.bris.ac.uk/datasets/2g1n6qdydwa9u22shpxqzp0t8m"
# The frames of this video were wrong when they were published; errata.csv of the official download scripts.
ERRATA = {
    "P01/rgb_frames/P01_109.tar": "https://www.dropbox.com/s/mh7y0goc5x945nu/P01_109.tar?dl=1",
    "P01/flow_frames/P01_109.tar": "https://www.dropbox.com/s/kdadnyf1epte0f1/P01_109.tar?dl=1",
}
GITHUB = "https://raw.githubusercontent.com/epic-kitchens"
SMALL_FILES = {
    **{name: f"{GITHUB}/epic-kitchens-100-annotations/master/{name}" for name in epic.ANNOTATIONS.values()},
    "md5.csv": f"{GITHUB}/epic-kitchens-download-scripts/master/data/md5.csv",
}
CHECKSUMS = ("tars.csv", "md5.csv")
LARGEST_FRAME = 1 << 22  # bytes; a frame has about 20 kB
COMMIT_EVERY = 1 << 28  # bytes that a killed process may lose
NAMED = 5  # frames of a tar that are told by name


class BadTar(UserError):
    """A tar that must be replaced; the others may be whole."""


@dataclass(frozen=True, eq=False)
class Tar:
    """The frames of a video in a modality; `keys` are those that are used."""

    video: str
    modality: str
    split: str
    keys: Keys

    @property
    def path(self) -> str:
        """Below the folder of the frames; without .tar the folder of loose frames."""
        return f"{self.video.partition('_')[0]}/{self.modality}_frames/{self.video}.tar"

    @property
    def remote(self) -> tuple[str, str]:
        """Version and path in the official list of checksums. The videos of our test split are those of EPIC-55's."""
        if self.path in ERRATA:
            return "errata", self.path
        if epic.is_extension(self.video):
            return "100", self.path
        part = "test" if self.split == "test" else "train"
        return "55", f"frames_rgb_flow/{self.modality}/{part}/{self.video.partition('_')[0]}/{self.video}.tar"

    @property
    def address(self) -> str:
        version, path = self.remote
        return ERRATA[path] if version == "errata" else f"{EPIC_55 if version == '55' else EPIC_100}/{path}"


@dataclass
class Report:
    """What is still to be had, by tar: a line each."""

    lines: list[str] = field(default_factory=list)

    def frames(self, tar: Tar, what: str, keys: Sequence[int], why: str = "") -> None:
        if keys:
            named = ", ".join(PurePosixPath(epic.frame_path(key)).name for key in keys[:NAMED])
            more = f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else ""
            self.lines.append(f"{tar.path}: {len(keys):,} frames {what}: {named}{more}{why}")


def needed_tars(splits: dict[str, list[epic.Clip]], flow_indices: Sequence[str]) -> list[Tar]:
    """All 88 + 88, by name, with the frames that are sampled."""
    tars = []
    for split, clips in splits.items():
        for video in sorted({clip.video for clip in clips}):
            own = [clip for clip in clips if clip.video == video]
            sampled = [epic.sampled_frames(own, flow_index) for flow_index in flow_indices]
            for number, (modality, streams) in enumerate(MODALITIES.items()):
                keys = [epic.frame_keys(own, stream, both[number]) for both in sampled for stream in streams]
                tars.append(Tar(video, modality, split, np.unique(np.concatenate(keys))))
    return sorted(tars, key=lambda tar: (tar.video, tar.modality != "rgb"))


def read_tar(path: Path, tar: Tar, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Key and bytes of the wanted frames, in the tar's order. Nothing is written, whatever its members are called.

    Raises BadTar for one that ends too early or leads out of itself.
    """
    if not path.is_file():
        return
    left = set(wanted)
    try:
        with tarfile.open(path, "r:") as archive:
            while left and (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else all of 100,000 are kept
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts:
                    raise BadTar(f"{path}: the member {member.name!r} points outside the tar; get another copy")
                key = _key_of_member(parts, tar)
                if key not in left:
                    continue
                if not member.isreg() or member.issparse() or member.size > LARGEST_FRAME:
                    raise BadTar(f"{path}: the member {member.name!r} is no ordinary frame; get another copy")
                content = archive.extractfile(member)
                assert content is not None
                left.remove(key)
                yield key, content.read()
    except (tarfile.TarError, EOFError) as error:
        raise BadTar(f"{path}: a tar that is damaged or cut short ({error}); get it again") from error


def _key_of_member(parts: tuple[str, ...], tar: Tar) -> int | None:
    """Frames lie at the top or in a folder of the video's name, those of flow in u and v."""
    inner = parts[1:] if parts[:1] == (tar.video,) else parts
    stream = "rgb" if tar.modality == "rgb" else inner[0] if len(inner) == 2 and inner[0] in ("u", "v") else None
    name = re.fullmatch(r"frame_(\d{10})\.jpg", inner[-1]) if inner else None
    if stream is None or name is None or len(inner) != len(MODALITIES[tar.modality]):
        return None
    return epic.frame_key(tar.video, stream, int(name[1]))


def read_loose(source: Path, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """As `read_tar`, from files."""
    for key in sorted(wanted):
        path = source / epic.frame_path(key)
        if path.is_file():
            yield key, path.read_bytes()


def store(tar: Tar, source: Path, writer: StoreWriter, report: Report, moved: Callable[[], None]) -> None:
    """Put into the store what it has not of a tar's frames and what is there, loose frames first."""
    wanted = set(writer.missing(tar.keys).tolist())
    damaged: dict[int, str] = {}
    pending = 0
    try:
        for frames in (read_loose(source, wanted), read_tar(source / tar.path, tar, wanted)):
            for key, jpeg in frames:
                try:
                    size = check(jpeg)
                except DamagedFrame as error:
                    damaged[key] = str(error)
                    continue
                writer.add(key, jpeg, size)
                wanted.discard(key)
                damaged.pop(key, None)
                moved()
                pending += len(jpeg)
                if pending >= COMMIT_EVERY:
                    writer.commit()
                    pending = 0
    except BadTar as error:
        report.lines.append(str(error))
        return
    finally:
        writer.commit()
    report.frames(tar, "are damaged", sorted(damaged), f" ({next(iter(damaged.values()), '')}); get the tar again")
    report.frames(tar, "are missing", sorted(wanted - damaged.keys()), "; is the tar, or the folder, whole?")


def check_store(folder: Path, writer: StoreWriter) -> None:
    """Read all stored frames; those that are damaged are stored no longer."""
    reader, bad = FrameStore(folder, writer.entries), []
    for row, key in enumerate(reader.entries["key"].tolist()):
        try:
            check(reader.jpeg(row).tobytes())
        except DamagedFrame:
            bad.append(key)
    if bad:
        writer.forget(np.array(bad, np.uint64))
        paths = ", ".join(epic.frame_path(key) for key in bad[:NAMED])
        print(f"{len(bad):,} stored frames are damaged and taken out: {paths}", file=sys.stderr)


def published_checksums(folder: Path) -> dict[tuple[str, str], str]:
    """MD5 by version and path; empty where no list lies in the folder."""
    for name in CHECKSUMS:
        if (folder / name).is_file():
            try:
                table = pd.read_csv(folder / name, dtype=str).rename(columns={"file_remote_path": "path"})
                rows = table[["version", "path", "md5"]].itertuples(index=False, name=None)
                return {(version, path): md5 for version, path, md5 in rows}
            except (OSError, ValueError, KeyError) as error:
                raise UserError(f"{folder / name}: not a list of checksums ({error}); delete it") from error
    return {}


def require_md5(path: Path, md5: str | None) -> None:
    if md5 is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != md5:
        raise BadTar(f"{path}: MD5 is {digest}, not the published {md5}; delete it and get it again")


def get(
    folder: Path,
    source: Path,
    flow_index: str = "upstream",
    downloads: bool = False,
    deletes: bool = False,
    checks: bool = False,
) -> None:
    """Store what is there, or can be downloaded, and is not stored yet.

    Raises MissingData where that is not all, UserError for annotations that are not the official ones, and for a folder
    that cannot be written.
    """
    console = Console(stderr=True)
    generated = (folder / GENERATED_MARKER).exists()
    if downloads and generated:
        raise UserError(f"{folder}: holds generated data (file {GENERATED_MARKER}); give another --folder")
    if downloads:
        _download_small_files(folder)
    splits = _read_clips(folder, generated)
    tars = needed_tars(splits, epic.FLOW_INDICES if flow_index == "both" else (flow_index,))
    checksums, report = {} if generated else published_checksums(folder), Report()
    if not generated:
        _tell_clips(splits, console)
    with StoreWriter(folder / STORE) as writer, _progress(console) as progress:
        if checks:
            check_store(folder / STORE, writer)
        left = [tar for tar in tars if len(writer.missing(tar.keys))]
        for tar in tars if deletes else ():  # those of earlier calls first: the disk may be full of them
            if tar not in left:
                (source / tar.path).unlink(missing_ok=True)
        _tell_state(tars, left, source, console)
        total = sum(len(tar.keys) for tar in tars)
        done = total - sum(len(writer.missing(tar.keys)) for tar in left)
        task = progress.add_task("frames", total=total, completed=done)
        for tar in left:
            path = source / tar.path
            try:
                if downloads and not path.is_file():
                    if _state(tar, source) is not None:  # loose frames, perhaps not all; store() below tells of them
                        store(tar, source, writer, Report(), lambda: progress.advance(task))
                    if len(writer.missing(tar.keys)):
                        _download_tar(tar, path, checksums, progress)
                if path.exists():
                    require_md5(path, checksums.get(tar.remote))
            except UserError as error:
                report.lines.append(str(error))
                continue
            if _state(tar, source) is not None:
                store(tar, source, writer, report, lambda: progress.advance(task))
                if not console.is_terminal:
                    console.print(f"{progress.tasks[0].completed:,.0f} of {total:,} frames, {tar.path}")
            if deletes and path.exists() and not len(writer.missing(tar.keys)):
                path.unlink()
        left = [tar for tar in left if len(writer.missing(tar.keys))]
        size = int(writer.entries["size"].sum())
    if left:
        for line in report.lines:
            print(f"error: {line}", file=sys.stderr)
        absent = sum(_state(tar, source) is None for tar in left)
        cure = (
            "make them again with scripts/make_epic_like.py"
            if generated
            else "--download gets them (105 GB in all), as does the official epic_downloader.py with --rgb-frames"
            " --flow-frames --participants 1,8,22; then start again, with --source FOLDER where they lie elsewhere"
        )
        raise MissingData(
            f"{len(left)} of {len(tars)} tars have frames that are not stored yet, {absent} not in {source}: {cure}"
        )
    sizes = " / ".join(f"{len(clips):,}" for clips in splits.values())
    told = f"{folder / STORE}: {total:,} frames, {size / 1e9:.2g} GB; {sizes} train, validation and test clips"
    if flow_index != "both":
        (other,) = set(epic.FLOW_INDICES) - {flow_index}
        told += f"; for dataset.flow_index={other} further frames are needed: --flow-index both"
    console.print(f"{told}. The tars in {source} are not needed any more.", soft_wrap=True)


def _read_clips(folder: Path, generated: bool) -> dict[str, list[epic.Clip]]:
    try:
        splits = epic.read_clips(folder)
    except MissingData as error:
        raise MissingData(
            f"{error}; get it from github.com/epic-kitchens/epic-kitchens-100-annotations, or with --download"
        ) from error
    if not generated:
        epic.require_published(folder, splits)
    return splits


def _state(tar: Tar, source: Path) -> str | None:
    """Where its frames can be read, or None."""
    path = source / tar.path
    return "tar" if path.is_file() else "loose frames" if path.with_suffix("").is_dir() else None


def _tell_clips(splits: dict[str, list[epic.Clip]], console: Console) -> None:
    table = Table("", *epic.VERBS, "all", "ext.", title="Clips by verb, and of the extension", padding=(0, 1, 0, 0))
    for split, clips in splits.items():
        for kitchen in epic.KITCHENS:
            found = epic.counts([clip for clip in clips if clip.kitchen == kitchen])
            numbers = found.classes[kitchen]
            table.add_row(f"{split[:5]} {kitchen}", *(f"{n:,}" for n in (*numbers, sum(numbers), found.extension)))
    console.print(table)


def _tell_state(tars: Sequence[Tar], left: Sequence[Tar], source: Path, console: Console) -> None:
    """A line a video, unless all is stored."""
    if not left:
        return
    table = Table("video", *MODALITIES, title=f"Frames of {len(tars)} tars in {source}")
    states: dict[str, list[str]] = {}
    for tar in tars:
        states.setdefault(tar.video, []).append("stored" if tar not in left else _state(tar, source) or "-")
    for video, both in states.items():
        table.add_row(video, *both)
    console.print(table)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _download_small_files(folder: Path) -> None:
    for name, address in SMALL_FILES.items():
        if name in CHECKSUMS and any((folder / other).exists() for other in CHECKSUMS):
            continue
        download(RemoteFile(name, address), folder, lambda have, total: None)


def _download_tar(tar: Tar, path: Path, checksums: dict[tuple[str, str], str], progress: Progress) -> None:
    task = progress.add_task(tar.path, total=None)
    remote = RemoteFile(path.name, tar.address, md5=checksums.get(tar.remote))
    try:
        download(remote, path.parent, lambda have, total: progress.update(task, completed=have, total=total))
    finally:
        progress.remove_task(task)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/epic"))
    parser.add_argument("--source", type=Path, help="where P01, P08 and P22 lie (default: EPIC-KITCHENS in the folder)")
    parser.add_argument(
        "--flow-index", choices=(*epic.FLOW_INDICES, "both"), default="upstream", help="dataset.flow_index"
    )
    parser.add_argument("--download", action="store_true", help="get the annotations and the tars that are not there")
    parser.add_argument("--delete-tars", action="store_true", help="each whose frames are stored, now or before")
    parser.add_argument("--check", action="store_true", help="read all stored frames first, and replace damaged ones")
    options = parser.parse_args(arguments)
    tars = options.source or options.folder / "EPIC-KITCHENS"
    how = (options.flow_index, options.download, options.delete_tars, options.check)
    return run_script(options.folder, lambda: get(options.folder, tars, *how))


if __name__ == "__main__":
    sys.exit(main())
