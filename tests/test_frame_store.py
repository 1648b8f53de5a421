"""The store of frames: what was committed is there, whatever happened afterwards; damage is found and named."""

import io
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimodal_loss.datasets.frame_store import DamagedFrame, FrameStore, StoreWriter, check, decode
from multimodal_loss.errors import MissingData, UserError


def jpeg(seed: int, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> bytes:
    picture = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(folder: Path, frames: dict[int, bytes]) -> None:
    with StoreWriter(folder) as writer:
        for key, content in frames.items():
            writer.add(key, content, check(content))
        writer.commit()


def content(folder: Path) -> dict[int, bytes]:
    store = FrameStore.open(folder)
    return {int(key): store.jpeg(row).tobytes() for row, key in enumerate(store.entries["key"])}


def test_frames_come_back_byte_for_byte_in_whatever_order_they_came(tmp_path: Path) -> None:
    frames = {key: jpeg(key, (20 + key % 7, 16)) for key in (9, 2**40 + 1, 1, 2**33, 5)}
    write(tmp_path, frames)
    assert content(tmp_path) == frames
    store = FrameStore.open(tmp_path)
    keys = np.array([[5, 2**33, 4], [2**50, 1, 0]], np.uint64)
    rows = store.rows(keys)
    assert (rows < 0).tolist() == [[False, False, True], [True, False, True]]
    assert store.entries["key"][rows[rows >= 0]].tolist() == [5, 2**33, 1]
    assert store.entries["width"].tolist() == [20 + key % 7 for key in sorted(frames)]
    assert {p.name for p in tmp_path.iterdir()} == {"frames.bin", "index.npy", ".lock"}
    assert (tmp_path / "frames.bin").stat().st_size == sum(map(len, frames.values()))


def test_pictures_are_those_of_another_decoder(tmp_path: Path) -> None:
    for kind, mode in (("RGB", "RGB"), ("L", "GRAY"), ("RGB", "GRAY")):
        data = jpeg(3, mode=kind)
        image = Image.open(io.BytesIO(data))
        image.draft("L" if mode == "GRAY" else "RGB", None)
        buffer = np.empty((16, 24, 3 if mode == "RGB" else 1), np.uint8)
        picture = decode(data, mode, buffer)  # type: ignore[arg-type]
        assert (picture == np.asarray(image).reshape(buffer.shape)).all() and np.shares_memory(picture, buffer)


def test_a_frame_that_is_added_again_is_replaced_and_a_forgotten_one_is_gone(tmp_path: Path) -> None:
    write(tmp_path, {1: jpeg(1), 2: jpeg(2), 3: jpeg(3)})
    write(tmp_path, {2: jpeg(20)})
    assert content(tmp_path) == {1: jpeg(1), 2: jpeg(20), 3: jpeg(3)}
    with StoreWriter(tmp_path) as writer:
        assert writer.missing(np.array([1, 4, 2], np.uint64)).tolist() == [4]
        writer.forget(np.array([2], np.uint64))
        assert writer.missing(np.array([1, 4, 2], np.uint64)).tolist() == [4, 2]
    assert content(tmp_path) == {1: jpeg(1), 3: jpeg(3)}


def write_and_be_killed(folder: Path) -> None:
    with StoreWriter(folder) as writer:
        writer.add(2, b"committed", (1, 1))
        writer.commit()
        writer.add(3, b"lost" * 100_000, (1, 1))
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_it_keeps_what_was_committed_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path, {1: jpeg(1)})
    process = multiprocessing.get_context("fork").Process(target=write_and_be_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    expected = {1: jpeg(1), 2: b"committed"}
    assert content(tmp_path) == expected
    assert (tmp_path / "frames.bin").stat().st_size > sum(map(len, expected.values()))
    write(tmp_path, {4: jpeg(4)})
    assert content(tmp_path) == {**expected, 4: jpeg(4)}
    assert (tmp_path / "frames.bin").stat().st_size == sum(map(len, content(tmp_path).values()))


def test_only_one_process_writes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path), pytest.raises(UserError, match="another process is writing"):
        StoreWriter(tmp_path)
    write(tmp_path, {1: jpeg(1)})


def test_another_process_gets_the_place_and_not_the_bytes(tmp_path: Path) -> None:
    write(tmp_path, {1: jpeg(1), 2: jpeg(2, (400, 300))})
    store = FrameStore.open(tmp_path)
    assert store.jpeg(1).tobytes() == jpeg(2, (400, 300))  # it has mapped them by now
    sent = pickle.dumps(store)
    assert len(sent) < 2_000 and pickle.loads(sent).jpeg(0).tobytes() == jpeg(1)


def test_damaged_bytes_are_found(tmp_path: Path) -> None:
    write(tmp_path, {1: jpeg(1), 2: jpeg(2)})
    whole = (tmp_path / "frames.bin").read_bytes()
    at = len(jpeg(1)) + len(jpeg(2)) // 2
    (tmp_path / "frames.bin").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    store = FrameStore.open(tmp_path)
    assert store.jpeg(0).tobytes() == jpeg(1)
    with pytest.raises(DamagedFrame, match="not those that were stored"):
        store.jpeg(1)
    (tmp_path / "frames.bin").write_bytes(whole[:-1])
    with pytest.raises(DamagedFrame):
        FrameStore.open(tmp_path).jpeg(1)
    with pytest.raises(UserError, match=r"frames.bin: cut short; delete .* and start again"):
        StoreWriter(tmp_path)
    for damage, complaint in ((whole[:0], "cannot be read"), (None, "cannot be read")):
        (tmp_path / "frames.bin").unlink()
        if damage is not None:
            (tmp_path / "frames.bin").write_bytes(damage)
        with pytest.raises(UserError, match=complaint):
            FrameStore.open(tmp_path).jpeg(0)
        (tmp_path / "frames.bin").touch()


def test_an_index_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"index.npy does not exist"):
        FrameStore.open(tmp_path)
    index = tmp_path / "index.npy"
    for rubbish in (b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", b"text"):
        index.write_bytes(rubbish)
        with pytest.raises(UserError, match="damaged"):
            FrameStore.open(tmp_path)
    for array in (np.zeros(3), np.array([{}], dtype=object)):
        np.save(index, array)
        with pytest.raises(UserError, match="delete"):
            FrameStore.open(tmp_path)


def huge() -> bytes:
    """A header that asks for 65,000 x 65,000 pixels."""
    data = jpeg(1)
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + (65_000).to_bytes(2, "big") * 2 + data[at + 9 :]


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"no picture at all", jpeg(1)[:-2], jpeg(1)[: len(jpeg(1)) // 2], jpeg(1)[:200], huge()],
)
def test_what_is_no_whole_jpeg_is_not_taken(data: bytes) -> None:
    with pytest.raises(DamagedFrame):
        check(data)


def test_padding_after_a_jpeg_is_no_damage() -> None:
    assert check(jpeg(1) + b"\0\0") == check(jpeg(1)) == (16, 24)
