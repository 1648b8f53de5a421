"""Get RAVDESS: download what is missing from Zenodo, check it, and prepare MFCC and crops of faces.

    python scripts/get_ravdess.py                    # make data-ravdess: sound and film, 13.6 GB
    python scripts/get_ravdess.py --sound-only       # make data-ravdess-audio: sound, 0.2 GB

What lies in the folder already is taken as it is: Actor_NN/ with .wav, .flac and .mp4, or archives under their
published names. Archives are read where they lie, nothing is taken out of them. An interrupted command goes on where it
stopped, with a download as with the faces (1 hour on one core, 3.3 GB in data/cache).
"""

import argparse
import signal
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from multimodal_loss.command import run_script
from multimodal_loss.datasets.getting.download import RemoteFile, download
from multimodal_loss.datasets.ravdess import GENERATED_MARKER, RavdessDataset
from multimodal_loss.datasets.ravdess_files import ACTORS, ARCHIVES, UNREADABLE, find_recordings, missing
from multimodal_loss.datasets.ravdess_video import FRAMES, Seen
from multimodal_loss.errors import UserError

RECORD = "https://zenodo.org/records/1188976/files/{name}?download=1"
AUDIO = RemoteFile(
    ARCHIVES["audio"], RECORD.format(name=ARCHIVES["audio"]), 208_468_073, "bc696df654c87fed845eb13823edef8a"
)
# Bytes of Video_Speech_Actor_01.zip to _24.zip. Their MD5 are not known here: the CRC of each member is checked.
VIDEO_BYTES = (
    *(552968353, 570673024, 567824665, 546560009, 562966425, 568517859),
    *(565652404, 562573079, 523489249, 565580163, 518634370, 557928718),
    *(501877549, 552484059, 525205576, 562416513, 551688845, 565655520),
    *(581121687, 561349264, 590292896, 560907466, 545177865, 595799165),
)


def video_archives() -> dict[int, RemoteFile]:
    """By actor."""
    names = [ARCHIVES["video"].format(actor=actor) for actor in ACTORS]
    return {
        actor: RemoteFile(name, RECORD.format(name=name), size)
        for actor, name, size in zip(ACTORS, names, VIDEO_BYTES, strict=True)
    }


def wanted(folder: Path, sound_only: bool) -> Iterator[RemoteFile]:
    """The archives of what is not in the folder, in whatever form."""
    if missing(find_recordings(folder, "audio")):
        yield AUDIO
    if not sound_only:
        actors = {clip.actor for clip in missing(find_recordings(folder, "video"))}
        yield from (remote for actor, remote in video_archives().items() if actor in actors)


def get(folder: Path, remotes: Iterable[RemoteFile]) -> None:
    """Download archives and check every member. Raises UserError for one that is not as published."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        for remote in remotes:
            bar = bars.add_task(remote.name, total=remote.size)
            if (folder / remote.name).exists():  # and yet clips are missing
                raise UserError(f"{folder / remote.name}: does not hold all clips; delete it and start again")
            download(remote, folder, lambda have, total, bar=bar: bars.update(bar, completed=have, total=total))  # type: ignore[misc]
            check_members(folder / remote.name)


def check_members(archive: Path) -> None:
    """Raise UserError, after deleting the archive, where a member's bytes are not those of its CRC."""
    try:
        with zipfile.ZipFile(archive) as content:
            bad = content.testzip()
    except UNREADABLE as error:
        bad = str(error)
    if bad is not None:
        archive.unlink()
        raise UserError(f"{archive}: damaged ({bad}), so it was deleted; start the same command again")


def prepare(folder: Path, cache_dir: Path, sound_only: bool, jobs: int | None) -> None:
    """Fill the cache and say what there is to say of the clips."""
    start = time.monotonic()
    sound = RavdessDataset(folder, cache_dir, ["audio"], generated=False)
    clips = sum(len(part) for part in (sound.load(0).train, sound.load(0).test))
    print(f"{folder}: {clips:,} sounds, MFCC in {time.monotonic() - start:.0f} s")
    if sound_only:
        return
    films = RavdessDataset(folder, cache_dir, ["video"], generated=False)
    made, seen, _ = films.prepare_faces(jobs)
    print(f"{made}: {len(seen):,} films")
    for line in report(dict(zip(films.names("video"), seen, strict=True))):
        print(line)


def report(seen: dict[str, Seen]) -> Iterator[str]:
    """Films without any face, with frames without one, and with too few frames."""
    none = [name for name, one in seen.items() if one.without_face + one.lacking == FRAMES]
    some = {name: one.without_face for name, one in seen.items() if one.without_face and name not in none}
    short = {name: one.lacking for name, one in seen.items() if one.lacking}
    yield f"without a face: {len(none)} films, of which the whole picture is taken{_listed(none)}"
    yield f"frames without a face: {sum(some.values())} in {len(some)} films, which take the box before{_listed(some)}"
    yield f"too short: {len(short)} films lack {sum(short.values())} frames, black unless dataset.short_clips=repeat"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return f": {', '.join(every)}" if every else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/ravdess"))
    parser.add_argument("--cache-dir", type=Path, default=Path("data/cache"))
    parser.add_argument("--sound-only", action="store_true", help="neither get nor prepare the films")
    parser.add_argument("--jobs", type=int, help="processes that look for faces; as many as there are cores by default")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def body() -> None:
        if (folder / GENERATED_MARKER).exists():
            raise UserError(f"{folder}: holds generated data (file {GENERATED_MARKER}); give another --folder")
        if arguments.jobs is not None and arguments.jobs < 1:
            raise UserError(f"--jobs {arguments.jobs}: must be at least 1")
        get(folder, list(wanted(folder, arguments.sound_only)))
        prepare(folder, arguments.cache_dir, arguments.sound_only, arguments.jobs)

    return run_script(folder, body)


if __name__ == "__main__":
    sys.exit(main())
