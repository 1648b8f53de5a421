"""Getting RAVDESS: what is there is taken, what is missing is downloaded, and archives that are wrong."""

import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import get_ravdess
from get_ravdess import AUDIO, check_members, get, report, video_archives, wanted
from multimodal_loss.datasets.getting.download import RemoteFile
from multimodal_loss.datasets.ravdess_files import published_clips
from multimodal_loss.datasets.ravdess_video import Seen
from multimodal_loss.errors import UserError


def archive(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, name.encode() * 50)
    return buffer.getvalue()


def members(modality: str, suffix: str, actors: range) -> list[str]:
    clips = [clip for clip in published_clips() if clip.actor in actors]
    return [f"Actor_{clip.actor:02}/{clip.stem(modality)}{suffix}" for clip in clips]


def test_the_published_archives() -> None:
    """The sum is that of the record's files; a digit that was typed wrongly would show."""
    sizes = [remote.size or 0 for remote in video_archives().values()]
    assert len(sizes) == 24 and sum(sizes) == 13_357_344_723
    assert video_archives()[7].name == "Video_Speech_Actor_07.zip"
    assert AUDIO.md5 is not None and len(AUDIO.md5) == 32


def test_only_what_is_missing_is_wanted(tmp_path: Path) -> None:
    assert [remote.name for remote in wanted(tmp_path, sound_only=True)] == [AUDIO.name]
    assert len(list(wanted(tmp_path, sound_only=False))) == 25
    (tmp_path / AUDIO.name).write_bytes(archive(members("audio", ".wav", range(1, 25))))
    (tmp_path / "Video_Speech_Actor_03.zip").write_bytes(archive(members("video", ".mp4", range(3, 4))))
    for name in members("video", ".mp4", range(4, 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / members("video", ".mp4", range(5, 6))[-1]).unlink()
    actors = [int(remote.name[-6:-4]) for remote in wanted(tmp_path, sound_only=False)]
    assert actors == [1, 2, 5, *range(6, 25)]


@pytest.fixture
def address() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server of files by their paths; it knows no ranges."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files[self.path.lstrip("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", files
    server.shutdown()
    server.server_close()


def test_an_archive_is_downloaded_and_checked(address: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, files = address
    content = archive(["a", "b"])
    files["good.zip"], files["bad.zip"] = content, content[:33] + b"\xff\xff" + content[35:]
    get(tmp_path, [RemoteFile("good.zip", f"{url}/good.zip", len(content))])
    assert (tmp_path / "good.zip").read_bytes() == content
    with pytest.raises(UserError, match=r"bad\.zip: damaged .*so it was deleted"):
        get(tmp_path, [RemoteFile("bad.zip", f"{url}/bad.zip", len(content))])
    with pytest.raises(UserError, match=rf"{len(content)} bytes where {len(content) + 1} belong"):
        get(tmp_path, [RemoteFile("short.zip", f"{url}/good.zip", len(content) + 1)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.zip", "short.zip.part"]


def test_an_archive_that_lacks_clips_is_not_downloaded_over(tmp_path: Path) -> None:
    (tmp_path / AUDIO.name).write_bytes(archive(members("audio", ".wav", range(1, 3))))
    assert [remote.name for remote in wanted(tmp_path, sound_only=True)] == [AUDIO.name]
    with pytest.raises(UserError, match="does not hold all clips; delete it"):
        get(tmp_path, [AUDIO])


def test_what_is_no_archive_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match="damaged"):
        check_members(tmp_path / "page.zip")
    assert not list(tmp_path.iterdir())


def test_the_report_names_films_without_a_face_and_short_ones() -> None:
    seen = {"a": Seen(0, 0), "b": Seen(13, 2), "c": Seen(2, 0), "d": Seen(0, 3)}
    none, some, short = report(seen)
    assert none == "without a face: 1 films, of which the whole picture is taken: b"
    assert some == "frames without a face: 2 in 1 films, which take the box before: c"
    assert short == "too short: 2 films lack 5 frames, black unless dataset.short_clips=repeat"


def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "GENERATED").touch()
    monkeypatch.setattr("sys.argv", ["get_ravdess.py", "--folder", str(tmp_path)])
    assert get_ravdess.main() == 2
    assert (
        capsys.readouterr().err == f"error: {tmp_path}: holds generated data (file GENERATED); give another --folder\n"
    )
