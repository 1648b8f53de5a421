"""Getting OPPORTUNITY: downloads that break off, and archives that are damaged, wrong or hostile."""

import hashlib
import io
import re
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import get_opportunity
from get_opportunity import check_counts, download, extract
from make_opportunity_like import write_like
from multimodal_loss.datasets import opportunity_channels
from multimodal_loss.datasets.base import MultimodalData, Split
from multimodal_loss.datasets.opportunity import OpportunityDataset
from multimodal_loss.datasets.opportunity_channels import RUNS, TASKS, PublishedFile
from multimodal_loss.errors import UserError

RUN_NAMES = ("S1-Drill", "S1-ADL1")
CONTENT = {run: f"0 1 NaN {run}\n".encode() * 4_000 for run in RUN_NAMES}
PUBLISHED = {run: PublishedFile(len(c), hashlib.sha256(c).hexdigest()) for run, c in CONTENT.items()}
PREFIX = "OpportunityUCIDataset/dataset/"


def make_zip(members: list[tuple[str | zipfile.ZipInfo, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def good_members(prefix: str = PREFIX) -> list[tuple[str | zipfile.ZipInfo, bytes]]:
    unused: list[tuple[str | zipfile.ZipInfo, bytes]] = [(f"{prefix}S4-ADL1.dat", b"unused"), ("README", b"r")]
    return unused + [(f"{prefix}{run}.dat", content) for run, content in CONTENT.items()]


# --- downloading


class Server(ThreadingHTTPServer):
    """Serves one archive at every path; the path says how: /no-range, /breaks (after 1,000 bytes), /page, /404, ..."""

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = archive
        self.asked: list[tuple[str, str | None]] = []

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        way, wanted, archive = self.path[1:], self.headers.get("Range"), self.server.archive
        self.server.asked.append((way, wanted))
        if way == "404":
            return self.send_error(404)
        if way == "page":
            return self.reply(200, b"<html>" * 9_999, {"Content-Type": "text/html; charset=utf-8"})
        if way == "rubbish":
            return self.reply(200, b"x" * len(archive), {})
        if way == "huge":
            return self.reply(200, b"", {"Content-Length": str(10 * len(archive))})
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and way != "no-range" else 0  # type: ignore[index]
        if first >= len(archive):
            return self.send_error(416)
        body = archive[first:]
        if way == "endless":
            body += bytes(9 * len(archive))
        headers = {} if way in ("no-length", "endless", "cut") else {"Content-Length": str(len(body))}
        if first:
            start = first + 1 if way == "shifted" else first
            headers["Content-Range"] = f"bytes {start}-{len(archive) - 1}/{len(archive)}"
        return self.reply(206 if first else 200, body[:1_000] if way in ("breaks", "cut") else body, headers)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(make_zip(good_members(), zipfile.ZIP_STORED)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("ways", "asked"),
    [
        (["whole"], [None]),
        (["404", "whole"], [None, None]),
        (["page", "whole"], [None, None]),
        (["rubbish", "whole"], [None, None]),
        (["huge", "whole"], [None, None]),
        (["no-length"], [None]),
        (["cut", "whole"], [None, "bytes=1000-"]),
        (["endless", "whole"], [None, None]),
        (["breaks", "no-length"], [None, "bytes=1000-"]),
        (["breaks", "whole"], [None, "bytes=1000-"]),
        (["breaks", "breaks", "breaks", "whole"], [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]),
        (["breaks", "no-range"], [None, "bytes=1000-"]),
        (["breaks", "page", "404", "whole"], [None, "bytes=1000-", "bytes=1000-", "bytes=1000-"]),
        (["breaks", "shifted", "whole"], [None, "bytes=1000-", "bytes=1000-"]),
    ],
)
def test_a_download_goes_on_where_it_stopped(
    ways: list[str], asked: list[str | None], server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "a.zip"
    download([server.address(way) for way in ways], target, len(server.archive))
    assert target.read_bytes() == server.archive and list(target.parent.iterdir()) == [target]
    assert server.asked == list(zip(ways, asked, strict=True))


def test_a_download_goes_on_in_the_next_process(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    with pytest.raises(UserError) as error:
        download([server.address("breaks"), server.address("404"), "http://127.0.0.1:9/x"], target, len(server.archive))
    message = str(error.value)
    assert "\n" not in message and "--archive FILE" in message and "archive.ics.uci.edu/dataset/226" in message
    for reason in (f"ended after 1,000 of {len(server.archive):,} bytes", "HTTP 404", "refused"):
        assert reason in message
    assert not target.exists()
    download([server.address("whole")], target, len(server.archive))
    assert server.asked[-1] == ("whole", "bytes=1000-") and target.read_bytes() == server.archive


def test_what_lies_there_is_not_trusted(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / "a.zip.part"
    # As long as the archive, but not it; and longer than it, where a server says 416.
    for wrong in (b"x" * len(server.archive), b"x" * (len(server.archive) + 5)):
        partial.write_bytes(wrong)
        download([server.address("whole")] * 2, tmp_path / "a.zip", len(server.archive))
        assert (tmp_path / "a.zip").read_bytes() == server.archive and not partial.exists()
    # A whole one needs only the last step.
    server.asked.clear()
    partial.write_bytes(server.archive)
    download([server.address("404")], tmp_path / "a.zip", len(server.archive))
    assert not server.asked and not partial.exists()
    # An archive of another size than was published is taken, and left to the checks of its files.
    for way in ("whole", "no-length"):
        for difference in (-9, 9):
            target = tmp_path / f"{way}{difference}.zip"
            download([server.address(way)], target, len(server.archive) + difference)
            assert target.read_bytes() == server.archive


# --- taking files out


def extracted(archive: bytes, folder: Path) -> dict[str, bytes]:
    path = folder / "archive.zip"
    path.write_bytes(archive)
    extract(path, folder / "data", RUN_NAMES, PUBLISHED)
    return {p.name: p.read_bytes() for p in (folder / "data").iterdir()}


@pytest.mark.parametrize("prefix", [PREFIX, "", "other/", "dataset/"])
def test_only_the_used_files_come_out_wherever_they_lie(prefix: str, tmp_path: Path) -> None:
    assert extracted(make_zip(good_members(prefix)), tmp_path) == {f"{run}.dat": c for run, c in CONTENT.items()}


def link(name: str, mode: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o777) << 16
    return info


def declare(archive: bytes, name: str, size: int) -> bytes:
    """The archive with another uncompressed size for one member, in both of its headers."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        info = file.getinfo(name)
    changed = bytearray(archive)
    changed[info.header_offset + 22 : info.header_offset + 26] = size.to_bytes(4, "little")
    central = archive.index(b"PK\x01\x02", archive.rindex(CONTENT_END))
    while archive[central + 46 :][: len(name)] != name.encode():
        central = archive.index(b"PK\x01\x02", central + 4)
    changed[central + 24 : central + 28] = size.to_bytes(4, "little")
    return bytes(changed)


CONTENT_END = b"PK\x03\x04"
DRILL, ADL = f"{PREFIX}S1-Drill.dat", f"{PREFIX}S1-ADL1.dat"
BOMB = b"\0" * 50_000_000


def encrypted() -> bytes:
    archive = bytearray(make_zip(good_members()))
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        offset = file.getinfo(DRILL).header_offset
    archive[offset + 6] |= 1
    central = archive.index(DRILL.encode(), offset + 31 + len(DRILL)) - 46
    archive[central + 8] |= 1
    return bytes(archive)


HOSTILE = {
    "absolute": (make_zip([("/etc/S1-Drill.dat", b"x"), *good_members()]), "points outside"),
    "drive": (make_zip([("C:\\S1-Drill.dat", b"x"), *good_members()]), "points outside"),
    "parent": (make_zip([("../S1-Drill.dat", b"x"), *good_members()]), "points outside"),
    "hidden parent": (make_zip([*good_members(), ("a/../../evil", b"x")]), "points outside"),
    "backslashes": (make_zip([*good_members(), ("a\\..\\..\\evil", b"x")]), "points outside"),
    "link": (make_zip([(link(DRILL), b"/etc/passwd"), (ADL, CONTENT["S1-ADL1"])]), "is a link or device"),
    "unused link": (make_zip([*good_members(), (link("notes"), b"/etc")]), "is a link or device"),
    "device": (make_zip([*good_members(), (link("notes", stat.S_IFCHR), b"")]), "is a link or device"),
    "twice": (make_zip([*good_members(), ("copy/S1-Drill.dat", b"x")]), "two members are called S1-Drill.dat"),
    "missing": (make_zip([(DRILL, CONTENT["S1-Drill"])]), "S1-ADL1.dat is not in it"),
    "folder": (make_zip([(DRILL, CONTENT["S1-Drill"]), (f"{ADL}/", b"")]), "S1-ADL1.dat is not in it"),
    "bomb": (make_zip([(DRILL, BOMB), (ADL, CONTENT["S1-ADL1"])]), "has 50,000,000 bytes where 68,000 are published"),
    "lying bomb": (
        declare(make_zip([(DRILL, BOMB), (ADL, CONTENT["S1-ADL1"])]), DRILL, PUBLISHED["S1-Drill"].size),
        "damaged|not the published file",
    ),
    "other bytes": (
        make_zip([(DRILL, CONTENT["S1-Drill"][:-1] + b"!"), (ADL, CONTENT["S1-ADL1"])]),
        "S1-Drill.dat is not the published file",
    ),
    "short": (make_zip([(DRILL, CONTENT["S1-Drill"][:-9]), (ADL, CONTENT["S1-ADL1"])]), "bytes where 68,000 are"),
    "unusual packing": (make_zip(good_members(), zipfile.ZIP_LZMA), "packed in an unusual way"),
    "encrypted": (encrypted(), "damaged or unreadable"),
    "cut": (make_zip(good_members())[:-40], "damaged or unreadable"),
    "cut in the middle": (make_zip(good_members())[:300], "damaged or unreadable"),
    "empty": (b"", "damaged or unreadable"),
    "no archive": (b"<html>" * 1_000, "damaged or unreadable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_archive_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    archive, wrong = HOSTILE[name]
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(UserError, match=wrong) as error:
        extracted(archive, inside)
    assert "\n" not in str(error.value) and "archive.zip" in str(error.value)
    assert list(tmp_path.iterdir()) == [inside] and {p.name for p in inside.iterdir()} == {"archive.zip", "data"}
    # Nothing partial, and nothing but published bytes.
    for path in (inside / "data").iterdir():
        assert path.read_bytes() == CONTENT[path.stem]


def test_a_flipped_byte_anywhere_never_gives_other_data(tmp_path: Path) -> None:
    archive = make_zip(good_members())
    for position in range(0, len(archive), 7):
        damaged = bytearray(archive)
        damaged[position] ^= 0x15
        try:
            files = extracted(bytes(damaged), tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
            files = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
        assert all(content == CONTENT[name.removesuffix(".dat")] for name, content in files.items())
        for path in (tmp_path / "data").iterdir():
            path.unlink()


# --- all of it


def counted(folder: Path) -> dict[str, list[int]]:
    """PUBLISHED_COUNTS for generated recordings."""
    data = {task: OpportunityDataset(folder, task=task).load() for task in TASKS}
    train, validation, test = data["gestures"].train, data["gestures"].validation, data["gestures"].test
    assert validation is not None
    counts = {"windows to train on, to validate and to test": [len(train), len(validation), len(test)]}
    for task, prepared in data.items():
        targets = prepared.test.target.tolist()
        classes = [targets.count(c) for c in range(len(prepared.classes))]
        counts[f"test windows of each class, {task}"] = classes
    return counts


def with_targets(targets: dict[str, list[int]]) -> MultimodalData:
    splits = {name: Split((), torch.tensor(target)) for name, target in targets.items()}
    classes = tuple(map(str, range(max(targets["test"]) + 1)))
    return MultimodalData(splits["train"], splits.get("validation"), splits["test"], (), classes, "")


def test_counts_that_are_not_the_published_ones_are_told() -> None:
    """The 9,894 test windows are those of the released code; most gestures and a fifth of locomotion are Null."""
    published = get_opportunity.PUBLISHED_COUNTS
    locomotion, gestures = (published[f"test windows of each class, {task}"] for task in ("locomotion", "gestures"))
    assert published[get_opportunity.WINDOWS] == [41_416, 5_078, 9_894] and sum(locomotion) == sum(gestures) == 9_894
    assert (len(locomotion), len(gestures)) == (5, 18)

    def data(classes: list[int], train: int = 41_416, validation: int = 5_078) -> MultimodalData:
        test = [c for c, number in enumerate(classes) for _ in range(number)]
        parts = {"train": [0] * train, "test": test}
        return with_targets(parts | ({"validation": [0] * validation} if validation else {}))

    right = {"locomotion": data(locomotion), "gestures": data(gestures)}
    check_counts(right)
    swapped = [locomotion[0], locomotion[2], locomotion[1], *locomotion[3:]]
    for wrong, told in (
        ({"gestures": data(gestures, train=41_415)}, r"to test: \[41415, 5078, 9894\] where \[41416, 5078, 9894\] are"),
        ({"gestures": data(gestures, validation=0)}, r"to test: \[41416, 0, 9894\] where"),
        ({"locomotion": data(swapped)}, r"class, locomotion: \[2042, 2272, 3101, .* where \[2042, 3101, 2272,"),
        ({"gestures": data([*gestures[:-1], 104])}, r"to test: .*9893\] where .*; .*gestures: \[8237, .*104\] where"),
    ):
        with pytest.raises(UserError, match=told) as error:
            check_counts(right | wrong)
        assert "\n" not in str(error.value)


def test_get_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    made, folder, cache = tmp_path / "made", tmp_path / "data", tmp_path / "cache"
    write_like(made, size=0.001)
    content = {run: (made / f"{run}.dat").read_bytes() for run in RUNS}
    published = {r: PublishedFile(len(c), hashlib.sha256(c).hexdigest()) for r, c in content.items()}
    server.archive = make_zip([(f"x/{run}.dat", c) for run, c in content.items()])
    for module in (get_opportunity, opportunity_channels):
        monkeypatch.setattr(module, "manifest", lambda: published)
    counts = counted(made)
    monkeypatch.setattr(get_opportunity, "PUBLISHED_COUNTS", counts)
    monkeypatch.setattr(get_opportunity, "ADDRESSES", (server.address("404"), server.address("whole")))

    def run(*arguments: str) -> int:
        paths = ["--folder", str(folder), "--cache-dir", str(cache)]
        monkeypatch.setattr("sys.argv", ["get_opportunity.py", *paths, *arguments])
        return get_opportunity.main()

    assert run("--archive", str(tmp_path / "none.zip")) == 2
    assert not server.asked
    assert run() == 0
    assert {p.name for p in folder.iterdir()} == {f"{r}.dat" for r in RUNS}  # the archive is gone
    assert [way for way, _ in server.asked] == ["404", "whole"]
    assert len(list(cache.glob("opportunity-*/content.json"))) == 1
    assert run() == 0 and len(server.asked) == 2  # nothing was missing
    (folder / "S2-ADL1.dat").write_bytes(b"damaged")
    (folder / "S3-ADL5.dat").unlink()
    (tmp_path / "mine.zip").write_bytes(server.archive)
    assert run("--archive", str(tmp_path / "mine.zip")) == 0 and len(server.asked) == 2
    assert all((folder / f"{r}.dat").read_bytes() == c for r, c in content.items()) and (tmp_path / "mine.zip").exists()
    assert not OpportunityDataset(folder, cache).generated
    counts["test windows of each class, gestures"][0] += 1
    assert run() == 2  # prepared, but not as others counted
    counts["test windows of each class, gestures"][0] -= 1

    # An archive that was downloaded stays when another one is used, wrong or right.
    (folder / "S3-ADL5.dat").unlink()
    (folder / "opportunity.zip").write_bytes(server.archive)
    (tmp_path / "wrong.zip").write_bytes(make_zip([("x/S3-ADL5.dat", b"other")]))
    assert run("--archive", str(tmp_path / "wrong.zip")) == 2 and (tmp_path / "wrong.zip").exists()
    assert (folder / "opportunity.zip").read_bytes() == server.archive
    assert run("--archive", str(tmp_path / "mine.zip")) == 0 and (folder / "opportunity.zip").exists()
    (folder / "S3-ADL5.dat").unlink()
    assert run() == 0 and len(server.asked) == 2 and not (folder / "opportunity.zip").exists()

    (folder / "S3-ADL5.dat").unlink()
    server.archive = make_zip([("x/S3-ADL5.dat", b"other")])
    assert run() == 2
    assert not list(folder.glob("*.zip*"))  # a wrong archive is not used again
    folder = made
    assert run() == 2  # generated data stay alone
    assert (made / "S1-Drill.dat").read_bytes() == content["S1-Drill"]
