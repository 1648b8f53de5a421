"""Getting EPIC-KITCHENS: frames out of tars and loose files, and tars that are damaged, wrong or hostile."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import get_epic
from get_epic import Tar, get, main, needed_tars
from make_epic_like import write_like
from multimodal_loss.datasets.epic_annotations import frame_key, frame_path, read_clips
from multimodal_loss.datasets.frame_store import FrameStore
from multimodal_loss.datasets.getting.download import RemoteFile
from multimodal_loss.errors import MissingData, UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made")
    write_like(path, clips=(5, 3, 3), size=(24, 16))
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy with its tars."""
    shutil.copytree(made, tmp_path / "epic")
    return tmp_path / "epic"


def stored(folder: Path) -> dict[str, bytes]:
    store = FrameStore.open(folder / "frames")
    return {frame_path(key): store.jpeg(row).tobytes() for row, key in enumerate(store.entries["key"].tolist())}


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]


def pack(path: Path, content: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def loosen(folder: Path) -> None:
    """Tars become folders of loose frames, as X-Norm reads them."""
    for path in (folder / "EPIC-KITCHENS").rglob("*.tar"):
        for name, data in members(path).items():
            target = path.with_suffix("") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        path.unlink()


def wrapped(prefix: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / "EPIC-KITCHENS").rglob("*.tar"):
            pack(path, {prefix.format(path.stem) + name: data for name, data in members(path).items()})

    return change


def test_just_the_sampled_frames_are_stored_as_they_are(folder: Path) -> None:
    get(folder, folder / "EPIC-KITCHENS")
    found = stored(folder)
    tars = needed_tars(read_clips(folder), ("upstream",))
    assert len(tars) == 22 and sorted(found) == sorted(frame_path(k) for tar in tars for k in tar.keys.tolist())
    for tar in tars:
        for name, data in members(folder / "EPIC-KITCHENS" / tar.path).items():
            assert found.get(f"{tar.path.removesuffix('.tar')}/{name}", data) == data
    shutil.rmtree(folder / "EPIC-KITCHENS")  # they are not needed any more
    get(folder, folder / "EPIC-KITCHENS")
    with pytest.raises(MissingData, match="of 22 tars have frames that are not stored yet"):
        get(folder, folder / "EPIC-KITCHENS", flow_index="fixed")
    assert stored(folder) == found


@pytest.mark.parametrize("change", [wrapped("{}/"), wrapped("./"), wrapped("./{}/"), loosen])
def test_every_layout_gives_the_same(change: Callable[[Path], None], folder: Path) -> None:
    get(folder, folder / "EPIC-KITCHENS", flow_index="both")
    expected = stored(folder)
    shutil.rmtree(folder / "frames")
    change(folder)
    (folder / "EPIC-KITCHENS").rename(folder / "elsewhere")
    get(folder, folder / "elsewhere", flow_index="both")
    assert stored(folder) == expected


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_interrupted_it_goes_on_with_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(folder, folder / "EPIC-KITCHENS")
    expected = stored(folder)
    shutil.rmtree(folder / "frames")
    check, checked = get_epic.check, list[bytes]()

    def killed_at_500(jpeg: bytes) -> tuple[int, int]:
        checked.append(jpeg)
        if len(checked) == 500:
            raise Killed
        return check(jpeg)

    monkeypatch.setattr(get_epic, "check", killed_at_500)
    with pytest.raises(Killed):
        get(folder, folder / "EPIC-KITCHENS")
    before = stored(folder)
    assert 0 < len(before) < 500 and before.items() <= expected.items()
    get(folder, folder / "EPIC-KITCHENS")
    assert stored(folder) == expected and len(checked) - 500 == len(expected) - len(before)


# --- tars that are wrong

TAR = "P08/rgb_frames/P08_01.tar"


def complaints(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """What it says on standard error before the last line, which says what to do."""
    capsys.readouterr()
    assert main(["--folder", str(folder), *options]) == 2
    *lines, last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "tars have frames that are not stored yet" in last
    return [line.removeprefix("error: ") for line in lines]


def kept(folder: Path) -> set[str]:
    return {path.rpartition("/frame_")[0] for path in stored(folder)}


def test_a_tar_that_is_cut_short_is_named_and_the_others_are_stored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "EPIC-KITCHENS" / TAR
    whole = path.read_bytes()
    for size in (0, 100, 512, 700, 20_000, 20_481):
        path.write_bytes(whole[:size])
        (line,) = complaints(folder, capsys)
        assert "P08_01.tar" in line and ("damaged or cut short" in line or "frames are missing" in line)
        assert len(kept(folder)) >= 3 * 11 - 1
    path.write_bytes(whole)
    assert main(["--folder", str(folder)]) == 0


def hostile(name: str) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))

    return add


def link(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("frame_0000000020.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)

    return add


def large(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("frame_0000000020.jpg")
    member.size = 1 << 40
    archive.addfile(member)


@pytest.mark.parametrize(
    ("add", "complaint"),
    [
        (hostile("../../frame_0000000020.jpg"), "points outside the tar"),
        (hostile("/tmp/frame_0000000020.jpg"), "points outside the tar"),
        (hostile("P08_01/../P08_01/frame_0000000020.jpg"), "points outside the tar"),
        (link(tarfile.SYMTYPE), "is no ordinary frame"),
        (link(tarfile.LNKTYPE), "is no ordinary frame"),
        (link(tarfile.FIFOTYPE), "is no ordinary frame"),
        (large, "is no ordinary frame"),
    ],
)
def test_hostile_members_are_refused_and_nothing_is_written_under_their_names(
    add: Callable[[tarfile.TarFile], None], complaint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path for path in folder.parent.rglob("*") if "frames/" not in str(path)}
    with tarfile.open(folder / "EPIC-KITCHENS" / TAR, "w") as archive:
        add(archive)
    (line,) = complaints(folder, capsys)
    assert TAR in line and complaint in line and "get another copy" in line
    after = {path for path in folder.parent.rglob("*") if "frames/" not in str(path)}
    assert {path.name for path in after - before} <= {"frames"}


@pytest.mark.parametrize(
    "name", ["frame_1.jpg", "x/frame_{}.jpg", "P08_02/frame_{}.jpg", "u/frame_{}.jpg", "frame_{}.png"]
)
def test_files_of_another_name_are_no_frames(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "EPIC-KITCHENS" / TAR
    numbered = {n.removeprefix("frame_").removesuffix(".jpg"): data for n, data in members(path).items()}
    pack(path, {name.format(number): data for number, data in numbered.items()})
    (line,) = complaints(folder, capsys)
    assert line.startswith(f"{TAR}: ") and "frames are missing: frame_0000000019.jpg" in line


def test_missing_and_damaged_frames_are_named_and_a_loose_file_replaces_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "EPIC-KITCHENS" / TAR
    content = members(path)
    good = dict(content)
    first, second, third = sorted(n for n in stored_names(folder) if n in content)[:3]
    del content[first]
    content[second] = b"GIF89a" + bytes(50)
    content[third] = content[third][:-20]
    pack(path, content)
    damaged, missing = complaints(folder, capsys)
    assert damaged.startswith(f"{TAR}: 2 frames are damaged: {second}, {third} (not a JPEG")
    assert missing.startswith(f"{TAR}: 1 frames are missing: {first};")
    for name in (first, second, third):
        loose = path.with_suffix("") / name
        loose.parent.mkdir(exist_ok=True)
        loose.write_bytes(good[name])
    assert main(["--folder", str(folder)]) == 0
    assert all(stored(folder)[f"{TAR.removesuffix('.tar')}/{n}"] == good[n] for n in (first, second, third))


def stored_names(folder: Path) -> list[str]:
    (tar,) = [tar for tar in needed_tars(read_clips(folder), ("upstream",)) if tar.path == TAR]
    return [frame_path(key).rpartition("/")[2] for key in tar.keys.tolist()]


def test_stored_frames_that_have_gone_bad_are_found_and_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get(folder, folder / "EPIC-KITCHENS")
    expected = stored(folder)
    store = FrameStore.open(folder / "frames")
    row = int(store.rows(np.array([frame_key("P22_01", "v", 3)], np.uint64))[0])
    with (folder / "frames" / "frames.bin").open("r+b") as file:
        file.seek(int(store.entries["offset"][row]) + 300)
        file.write(b"\0\0\0\0")
    capsys.readouterr()
    assert main(["--folder", str(folder)]) == 0  # it looks at the index alone
    assert main(["--folder", str(folder), "--check"]) == 0
    assert "1 stored frames are damaged and taken out: P22/flow_frames/P22_01/v/frame_0000000003.jpg" in (
        capsys.readouterr().err
    )
    assert stored(folder) == expected
    assert main(["--folder", str(folder), "--check", "--delete-tars"]) == 0
    assert not list((folder / "EPIC-KITCHENS").rglob("*.tar"))  # nor those whose frames an earlier call had stored


# --- the published tars


def tar(video: str, modality: str, split: str = "train") -> Tar:
    return Tar(video, modality, split, np.zeros(0, np.uint64))


def test_addresses_are_the_official_ones() -> None:
    bris = "https://data.bris.ac.uk/datasets"
    old, new = f"{bris}/3h91syskeag572hl6tvuovwv4d/frames_rgb_flow", f"{bris}/2g1n6qdydwa9u22shpxqzp0t8m"
    assert tar("P08_26", "flow", "validation").address == f"{old}/flow/train/P08/P08_26.tar"
    assert tar("P22_04", "rgb", "test").address == f"{old}/rgb/test/P22/P22_04.tar"
    assert tar("P22_110", "rgb").address == f"{new}/P22/rgb_frames/P22_110.tar"
    assert tar("P22_110", "flow").path == "P22/flow_frames/P22_110.tar"
    assert tar("P01_109", "flow").remote == ("errata", "P01/flow_frames/P01_109.tar")
    assert tar("P01_109", "flow").address.startswith("https://www.dropbox.com/s/")


def as_real(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated clips, taken for the published ones."""
    (folder / "GENERATED").unlink(missing_ok=True)
    monkeypatch.setattr(get_epic.epic, "require_published", lambda folder, splits: None)


def test_what_is_missing_is_downloaded_checked_and_deleted_once_it_is_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_real(folder, monkeypatch)
    there = folder / "EPIC-KITCHENS"
    remote = there.rename(folder.parent / "remote")
    (there / "P08/rgb_frames").mkdir(parents=True)
    shutil.copy(remote / TAR, there / TAR)
    asked: list[str] = []

    def fake(file: RemoteFile, target: Path, moved: Callable[[int, int | None], None]) -> None:
        asked.append(file.url)
        if file.name in ("EPIC_100_train.csv", "EPIC_100_validation.csv"):
            return
        if file.name == "md5.csv":
            sums = ["version,file_remote_path,md5"]
            for one in tars:
                sums.append(",".join([*one.remote, hashlib.md5((remote / one.path).read_bytes()).hexdigest()]))
            (target / file.name).write_text("\n".join(sums) + "\n")
            return
        if file.name == "P22_109.tar":
            raise UserError(f"{file.url} answers 404")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(remote / target.relative_to(there) / file.name, target / file.name)
        moved(10, 20)

    tars = needed_tars(read_clips(folder), ("upstream",))
    monkeypatch.setattr(get_epic, "download", fake)
    lines = complaints(folder, capsys, "--download", "--delete-tars")
    assert len(lines) == 2 and all("P22_109.tar answers 404" in line for line in lines)
    assert sorted(asked[3:]) == sorted(one.address for one in tars if one.path != TAR)
    assert not list(there.rglob("*.tar"))
    # One that lies there, and is not the published one.
    (there / "P22/rgb_frames/P22_109.tar").write_bytes((remote / "P22/rgb_frames/P22_109.tar").read_bytes() + b"x")
    (line,) = complaints(folder, capsys)
    assert "P22_109.tar: MD5 is " in line and "delete it and get it again" in line
    (there / "P22/rgb_frames/P22_109.tar").unlink()
    assert main(["--folder", str(folder), "--source", str(remote)]) == 0


def test_tars_of_earlier_calls_are_deleted_before_anything_is_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "EPIC-KITCHENS" / TAR
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(MissingData):
        get(folder, folder / "EPIC-KITCHENS")
    path.write_bytes(whole)

    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(get_epic, "store", full)
    with pytest.raises(UserError, match="disk is full"):
        get(folder, folder / "EPIC-KITCHENS", deletes=True)
    assert list((folder / "EPIC-KITCHENS").rglob("*.tar")) == [path]


def test_what_a_folder_of_loose_frames_lacks_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(folder, folder / "EPIC-KITCHENS")
    expected = stored(folder)
    shutil.rmtree(folder / "frames")
    remote = shutil.copytree(folder / "EPIC-KITCHENS", folder.parent / "remote")
    loosen(folder)
    half = (folder / "EPIC-KITCHENS" / TAR).with_suffix("")
    for name in stored_names(folder)[3:]:
        (half / name).unlink()
    as_real(folder, monkeypatch)
    asked: list[str] = []

    def fake(file: RemoteFile, target: Path, moved: Callable[[int, int | None], None]) -> None:
        if file.name.endswith(".tar"):
            asked.append(file.url)
            shutil.copy(remote / target.relative_to(folder / "EPIC-KITCHENS") / file.name, target / file.name)

    monkeypatch.setattr(get_epic, "download", fake)
    get(folder, folder / "EPIC-KITCHENS", downloads=True)
    (wanted,) = [one for one in needed_tars(read_clips(folder), ("upstream",)) if one.path == TAR]
    assert asked == [wanted.address] and stored(folder) == expected


def test_without_the_data_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path / "epic")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "EPIC_100_train.csv does not exist; get it from github.com/epic-kitchens" in line


def test_generated_clips_are_never_mixed_with_downloads(folder: Path) -> None:
    with pytest.raises(UserError, match="holds generated data"):
        get(folder, folder / "EPIC-KITCHENS", downloads=True)


def test_generated_tars_are_made_again_alike_where_one_is_missing(folder: Path) -> None:
    path = folder / "EPIC-KITCHENS" / TAR
    before, times = path.read_bytes(), path.stat().st_mtime_ns
    write_like(folder, clips=(5, 3, 3), size=(24, 16))
    assert path.stat().st_mtime_ns == times
    path.unlink()
    write_like(folder, clips=(5, 3, 3), size=(24, 16))
    assert path.read_bytes() == before
    (folder / "GENERATED").unlink()
    with pytest.raises(UserError, match="holds annotations or frames that were not generated"):
        write_like(folder, clips=(5, 3, 3), size=(24, 16))


def test_clips_that_are_made_anew_do_not_keep_the_frames_of_the_old_ones(folder: Path) -> None:
    get(folder, folder / "EPIC-KITCHENS")
    old = stored(folder)
    write_like(folder, clips=(5, 3, 3), size=(24, 16))
    assert stored(folder) == old  # they are the same clips
    write_like(folder, clips=(5, 3, 3), size=(24, 16), seed=1)
    get(folder, folder / "EPIC-KITCHENS")
    assert stored(folder) != old
    for name, data in members(folder / "EPIC-KITCHENS" / TAR).items():
        assert stored(folder).get(f"{TAR.removesuffix('.tar')}/{name}", data) == data
    # Frames without a marker are not the generator's to delete.
    for name in ("GENERATED", "EPIC_100_train.csv", "EPIC_100_validation.csv"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="holds annotations or frames that were not generated"):
        write_like(folder, clips=(5, 3, 3), size=(24, 16))
    assert stored(folder)


def test_generated_tars_have_as_many_fields_as_the_real_ones(made: Path) -> None:
    clips = [c for c in read_clips(made)["train"] if c.video == "P01_101"]
    rgb = members(made / "EPIC-KITCHENS/P01/rgb_frames/P01_101.tar")
    flow = members(made / "EPIC-KITCHENS/P01/flow_frames/P01_101.tar")
    assert len(flow) == 2 * len(rgb)  # the extension has a field for every frame
    assert len(members(made / "EPIC-KITCHENS/P08/flow_frames/P08_01.tar")) // 2 == -(
        -len(members(made / "EPIC-KITCHENS/P08/rgb_frames/P08_01.tar")) // 2
    )
    picture = Image.open(io.BytesIO(rgb[f"frame_{clips[0].start:010d}.jpg"]))
    assert picture.size == (24, 16) and picture.mode == "RGB"
    assert Image.open(io.BytesIO(flow["u/frame_0000000001.jpg"])).mode == "L"
