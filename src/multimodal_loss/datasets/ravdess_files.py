"""What the files of RAVDESS are called and where they lie: in folders of actors, or in the archives as downloaded.

A name is seven two-digit numbers: what it holds (01 picture and sound, 02 picture, 03 sound), 01 speech or 02 song,
emotion, intensity, statement, repetition, actor. The 1,440 clips of speech are used; archives are read where they lie.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from multimodal_loss.errors import UserError

ACTORS = tuple(range(1, 25))
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # from 01 on
ARCHIVES = {"audio": "Audio_Speech_Actors_01-24.zip", "video": "Video_Speech_Actor_{actor:02}.zip"}
KINDS = {"audio": "03", "video": "01"}
SUFFIXES = {"audio": (".wav", ".flac"), "video": (".mp4",)}  # the first that is there is taken
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError)
MOST_BYTES = 64 << 20  # of one file: the published ones have at most a tenth of it


class Clip(NamedTuple):
    """One of the 1,440: numbers as in the file names."""

    actor: int
    emotion: int
    intensity: int
    statement: int
    repetition: int

    def stem(self, modality: str) -> str:
        numbers = (self.emotion, self.intensity, self.statement, self.repetition, self.actor)
        return "-".join([KINDS[modality], "01", *(f"{number:02}" for number in numbers)])


def published_clips() -> Iterator[Clip]:
    """All 1,440, by actor and then as their names are sorted; neutral has no strong intensity."""
    for actor in ACTORS:
        for emotion in range(1, len(EMOTIONS) + 1):
            for intensity in (1,) if emotion == 1 else (1, 2):
                for statement in (1, 2):
                    for repetition in (1, 2):
                        yield Clip(actor, emotion, intensity, statement, repetition)


@dataclass(frozen=True)
class Recording:
    """A file, or the member of an archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @property
    def cure(self) -> str:
        """What to do where it is damaged: make data-ravdess gets nothing that is there, in whatever state."""
        return f"delete {self.path.name}, then make data-ravdess gets it again"

    def read(self) -> bytes:
        """Its bytes. Raises UserError, one line, for what cannot be read, is damaged or is too large."""
        try:
            if self.member is None:
                with self.path.open("rb") as file:
                    content = file.read(MOST_BYTES + 1)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                    content = file.read(MOST_BYTES + 1)  # at the end of a member its checksum is compared
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            RuntimeError,
            NotImplementedError,
            KeyError,
        ) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self}: cannot be read ({reason}); {self.cure}") from error
        if len(content) > MOST_BYTES:
            raise UserError(f"{self}: more than {MOST_BYTES >> 20} MiB, so this is no clip; {self.cure}")
        return content


def find_recordings(folder: Path, modality: str) -> dict[Clip, Recording]:
    """The clips that are there, in folders `Actor_NN` or in the archives under their published names.

    A file wins over a member of an archive. Raises UserError for an archive that cannot be read.
    """
    in_folders = {name: Recording(parent / name) for actor in ACTORS for parent, name in _listed(folder, actor)}
    in_archives = dict(_members(folder, modality))
    found = {}
    for clip in published_clips():
        wanted = [f"{clip.stem(modality)}{suffix}" for suffix in SUFFIXES[modality]]
        own = [place[name] for place in (in_folders, in_archives) for name in wanted if name in place]
        if own:
            found[clip] = own[0]
    return found


def paths_of(recordings: Iterable[Recording]) -> list[Path]:
    """Files and archives, each once."""
    return list(dict.fromkeys(recording.path for recording in recordings))


def missing(found: Mapping[Clip, Recording]) -> Sequence[Clip]:
    return [clip for clip in published_clips() if clip not in found]


def _listed(folder: Path, actor: int) -> list[tuple[Path, str]]:
    """The files of an actor's folder; those of another actor's number are none of the dataset's."""
    place = folder / f"Actor_{actor:02}"
    return [(place, path.name) for path in place.iterdir() if path.stem[-2:] == f"{actor:02}"] if place.is_dir() else []


def _members(folder: Path, modality: str) -> Iterator[tuple[str, Recording]]:
    """Members `NAME` or `Actor_NN/NAME` by their names; other paths are none of the dataset's."""
    archives = dict.fromkeys(ARCHIVES[modality].format(actor=actor) for actor in ACTORS)
    for path in (folder / name for name in archives):
        if not path.is_file():
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                listed = archive.namelist()
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise UserError(f"{path}: a damaged archive ({error}); delete it and get it again") from error
        if len(set(listed)) < len(listed):
            twice = next(name for name in listed if listed.count(name) > 1)
            raise UserError(f"{path}: two members are called {twice}; delete it and get it again")
        for member in listed:
            parent, _, name = member.rpartition("/")
            if parent in ("", f"Actor_{Path(name).stem[-2:]}"):
                yield name, Recording(path, member)
