"""RAVDESS: names, sounds and films as in the released preprocessing, folds, augmentation, and files that are wrong.

Golden MFCC: librosa 0.11.0 with pad_mode="reflect", as 0.8.1 had it; for whole files resampled by resampy 0.2.2,
kaiser_best, as 0.8.1 did.
"""

import io
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from multimodal_loss.backbones import MLP
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData, RavdessDataset, ravdess, ravdess_video
from multimodal_loss.datasets.base import Batch, Draws, Split
from multimodal_loss.datasets.ravdess import FOLDS, FilmClips, SoundClips, modality_dropout
from multimodal_loss.datasets.ravdess_audio import SAMPLES, cut, mfcc, mfcc_of, read_sound
from multimodal_loss.datasets.ravdess_files import Clip, Recording, find_recordings, published_clips
from multimodal_loss.datasets.ravdess_video import Box, Picture, Seen, crop, crops_of, frame_numbers, read_frames
from multimodal_loss.errors import MissingData, UserError
from multimodal_loss.fusion import QMF, SumCrossEntropy
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.replicate import Recipe, make_replicate

CPU = torch.device("cpu")
STEPS = [0, 1, 40, 87, 120, 155]
# Coefficients by step: of `tone` at 22,050 Hz, and of files at 48,000 Hz of 4.2 s (cut) and 3.0 s (filled up).
GOLDEN = json.loads((Path(__file__).parent / "golden" / "ravdess_mfcc.json").read_text())


def tone(seconds: float, rate: int) -> NDArray[np.float32]:
    """(T, 2): a rising tone on the left, a shorter steady one on the right, noise on both."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.01, (len(t), 2))
    left = 0.3 * np.sin(2 * np.pi * (200 * t + 300 * t**2))
    right = 0.2 * np.sin(2 * np.pi * 3000 * t) * (t < 2)
    return (np.stack([left, right], 1) + noise).astype(np.float32)


def sound_file(seconds: float = 0.1, format: str = "WAV", rate: int = 48_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, rate), rate, format=format, subtype="PCM_16")
    return file.getvalue()


def film(frames: int, size: tuple[int, int] = (64, 48), step: int = 2) -> bytes:
    """Frame n is grey of brightness n * step, with a white square that moves to the right."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), number * step, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def on_disk(folder: Path, content: bytes, name: str = "film.mp4") -> Recording:
    (folder / name).write_bytes(content)
    return Recording(folder / name)


def write_clips(folder: Path, modality: str, suffix: str, content: bytes, clips: Sequence[Clip] | None = None) -> None:
    for clip in published_clips() if clips is None else clips:
        place = folder / f"Actor_{clip.actor:02}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{clip.stem(modality)}{suffix}").write_bytes(content)


# --- names and sounds


def test_the_1440_clips_and_their_names() -> None:
    clips = list(published_clips())
    assert len(set(clips)) == 1440 and set(Counter(clip.actor for clip in clips).values()) == {60}
    assert Counter(clip.emotion for clip in clips) == {1: 96, **dict.fromkeys(range(2, 9), 192)}
    assert Clip(actor=12, emotion=6, intensity=1, statement=2, repetition=1).stem("audio") == "03-01-06-01-02-01-12"
    assert [clip.stem("audio") for clip in clips] == sorted(
        (clip.stem("audio") for clip in clips), key=lambda name: (name[-2:], name)
    )


def test_mfcc_is_librosas() -> None:
    sound = torch.from_numpy(tone(3.6, 22_050).mean(axis=1))[None]
    expected = torch.tensor(GOLDEN["at_22050"])
    torch.testing.assert_close(mfcc(sound)[0][:, STEPS], expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("seconds, format", [(4.2, "WAV"), (3.0, "FLAC")])
def test_files_become_mfcc_as_by_librosa(seconds: float, format: str, tmp_path: Path) -> None:
    recording = on_disk(tmp_path, sound_file(seconds, format), f"sound.{format.lower()}")
    found, expected = mfcc_of([recording])[0][:, STEPS], torch.tensor(GOLDEN[f"file_{seconds}"])
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_a_clip_does_not_depend_on_louder_ones_beside_it() -> None:
    """The 80 dB below the loudest band are those of the clip, not of the batch."""
    quiet = torch.from_numpy(tone(3.6, 22_050).mean(axis=1))[None] * 1e-4
    together = mfcc(torch.cat([quiet, quiet * 1e4]))
    torch.testing.assert_close(together[:1], mfcc(quiet))


@pytest.mark.parametrize("length, first, last", [(100, 0, 0), (SAMPLES, 0, SAMPLES - 1), (SAMPLES + 5, 2, SAMPLES + 1)])
def test_sounds_are_cut_in_the_middle_and_filled_up_behind(length: int, first: int, last: int) -> None:
    found = cut(torch.arange(length).float())
    assert found.shape == (SAMPLES,) and (int(found[0]), int(found[-1])) == (first, last)
    assert length >= SAMPLES or (found[:length].tolist() == list(range(length)) and not found[length:].any())


@pytest.mark.parametrize(
    "content, said", [(b"", "not a sound file"), (b"RIFF????WAVEfmt ", "not a sound"), (sound_file(0.0), "no sound")]
)
def test_files_without_sound_are_named(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"sound\.wav: .*{said}.*; delete sound\.wav, then make data-ravdess"):
        read_sound(on_disk(tmp_path, content, "sound.wav"))


# --- archives


def archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)


FIRST = "Actor_01/03-01-01-01-01-01-01.wav"
AUDIO_ARCHIVE = "Audio_Speech_Actors_01-24.zip"


def test_members_are_read_where_they_lie_and_files_win(tmp_path: Path) -> None:
    content = sound_file()
    hostile = {"../03-01-01-01-01-02-01.wav": content, "/etc/03-01-01-01-02-01-01.wav": content}
    archive(tmp_path / AUDIO_ARCHIVE, {FIRST: content, "Actor_02/03-01-01-01-01-01-02.wav": b"no", **hostile})
    write_clips(tmp_path, "audio", ".flac", sound_file(format="FLAC"), [Clip(2, 1, 1, 1, 1)])
    found = find_recordings(tmp_path, "audio")
    assert sorted(found) == [Clip(1, 1, 1, 1, 1), Clip(2, 1, 1, 1, 1)]
    assert found[Clip(1, 1, 1, 1, 1)].read() == content and found[Clip(2, 1, 1, 1, 1)].member is None
    torch.testing.assert_close(*(read_sound(one) for one in found.values()), rtol=0, atol=2e-4)  # other rounding
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["Actor_02"]  # nothing was taken out


def damaged(content: bytes) -> bytes:
    return content[: len(content) // 2] + b"\xff" * 8 + content[len(content) // 2 + 8 :]


def test_a_damaged_member_is_one_line(tmp_path: Path) -> None:
    archive(tmp_path / AUDIO_ARCHIVE, {FIRST: sound_file(1.0)})
    whole = (tmp_path / AUDIO_ARCHIVE).read_bytes()
    (tmp_path / AUDIO_ARCHIVE).write_bytes(damaged(whole))
    with pytest.raises(
        UserError, match=rf"{AUDIO_ARCHIVE}: {FIRST}: cannot be read .*; delete {AUDIO_ARCHIVE}, then make"
    ):
        find_recordings(tmp_path, "audio")[Clip(1, 1, 1, 1, 1)].read()
    (tmp_path / AUDIO_ARCHIVE).write_bytes(whole[:-40])
    with pytest.raises(UserError, match=rf"{AUDIO_ARCHIVE}: a damaged archive"):
        find_recordings(tmp_path, "audio")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_and_too_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / AUDIO_ARCHIVE, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(FIRST, bytes(2000))
        monkeypatch.setattr("multimodal_loss.datasets.ravdess_files.MOST_BYTES", 1000)
    with pytest.raises(UserError, match=f"this is no clip; delete {AUDIO_ARCHIVE}, then make"):
        find_recordings(tmp_path, "audio")[Clip(1, 1, 1, 1, 1)].read()
    with zipfile.ZipFile(tmp_path / AUDIO_ARCHIVE, "a") as file:
        file.writestr(FIRST, b"another")
    with pytest.raises(UserError, match=f"two members are called {FIRST}"):
        find_recordings(tmp_path, "audio")


# --- the dataset


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All 1,440 names, and MFCC that begin with the numbers of the clip's name."""
    write_clips(tmp_path / "ravdess", "audio", ".wav", b"")

    def numbered(recordings: Iterator[Recording]) -> Tensor:
        numbers = [[float(part) for part in recording.path.stem.split("-")[2:]] for recording in recordings]
        values = torch.zeros(len(numbers), 10, 156)
        values[:, 0, :5] = torch.tensor(numbers)
        return values

    monkeypatch.setattr(ravdess.audio, "mfcc_of", numbered)
    return tmp_path / "ravdess"


def test_folds_share_no_actor_and_hold_what_was_published(silent: Path) -> None:
    assert sorted(actor for fold in FOLDS for actor in fold) == list(range(1, 25))
    data = RavdessDataset(silent, modalities=["audio"], classes="eight")
    tested = []
    for fold, clips in enumerate((300, 300, 300, 300, 240)):
        parts = data.load(fold)
        assert isinstance(parts.train, SoundClips) and isinstance(parts.test, SoundClips) and parts.validation is None
        assert (len(parts.test), len(parts.train)) == (clips, 1440 - clips)
        assert set(parts.test.actors) == set(FOLDS[fold]) and not set(parts.train.actors) & set(FOLDS[fold])
        # What the inputs say of their files agrees: the actor, and the emotion as label.
        numbers = parts.test.inputs[0][:, 0, :5].long()
        assert numbers[:, 4].tolist() == list(parts.test.actors)
        assert (numbers[:, 0] - 1).tolist() == parts.test.target.tolist()
        assert Counter(parts.test.target.tolist()) == {0: clips // 15, **dict.fromkeys(range(1, 8), clips * 2 // 15)}
        tested += [tuple(one) for one in numbers.tolist()]
    assert len(set(tested)) == 1440


@pytest.mark.parametrize(
    "classes, counts, names",
    [
        ("merge", [60, 40, 40, 40, 40, 40, 40], "calm happy sad angry fearful disgust surprised"),
        ("drop", [40] * 7, "calm happy sad angry fearful disgust surprised"),
        ("eight", [20, *[40] * 7], "neutral calm happy sad angry fearful disgust surprised"),
    ],
)
def test_readings_of_the_classes(silent: Path, classes: str, counts: list[int], names: str) -> None:
    data = RavdessDataset(silent, modalities=["audio"], classes=classes).load(0)
    assert data.test.target.bincount().tolist() == counts and data.classes == tuple(names.split())


def test_permuted_labels_are_dealt_within_each_actor(silent: Path) -> None:
    true, dealt = (RavdessDataset(silent, modalities=["audio"], permuted_labels=one) for one in (False, True))
    for fold in (0, 4):
        for part in ("train", "test"):
            one, other = getattr(true.load(fold), part), getattr(dealt.load(fold), part)
            for actor in set(one.actors):
                rows = [row for row, own in enumerate(one.actors) if own == actor]
                assert one.target[rows].bincount().tolist() == other.target[rows].bincount().tolist()
            agreeing = float((one.target == other.target).float().mean())
            assert 0.08 < agreeing < 0.24  # chance: 0.2 ** 2 + 6 * (8 / 60) ** 2 = 0.147
    assert true.load(0).fingerprint != dealt.load(0).fingerprint
    again = RavdessDataset(silent, modalities=["audio"], permuted_labels=True).load(4)
    assert again.test.target.equal(dealt.load(4).test.target)


def test_scores_of_each_actor(silent: Path) -> None:
    test = RavdessDataset(silent, modalities=["audio"]).load(4).test
    fused = np.eye(7)[test.target.numpy()]
    fused[np.array(test.actors) == 9] = np.eye(7)[0]
    scored = test.rescored(fused)
    right = {name: float((f.argmax(1) == target).mean()) for name, (target, f) in scored.items()}
    assert right == {"actor_01": 1.0, "actor_04": 1.0, "actor_09": 0.2, "actor_22": 1.0}


def test_what_is_missing_is_named_with_the_first(silent: Path) -> None:
    with pytest.raises(MissingData, match="nowhere does not exist"):
        RavdessDataset(silent / "nowhere").require_files()
    (silent / "Actor_07" / "03-01-02-01-01-01-07.wav").unlink()
    with pytest.raises(MissingData, match=r"1 of 1,440 files 03-01-\*.wav or .flac .*Actor_07/03-01-02-01-01-01-07"):
        RavdessDataset(silent, modalities=["audio"]).require_files()
    with pytest.raises(MissingData, match=r"1,440 of 1,440 files 01-01-\*.mp4"):
        RavdessDataset(silent, silent, modalities=["video"]).require_files()


def test_made_up_clips_are_never_taken_for_real_ones(tmp_path: Path) -> None:
    clips = [Clip(actors[0], emotion, 1, 1, 1) for actors in FOLDS for emotion in (1, 5)]
    write_clips(tmp_path, "audio", ".wav", sound_file(), clips)
    (tmp_path / "GENERATED").touch()
    with pytest.raises(UserError, match=r"holds generated data .* dataset.generated=false"):
        RavdessDataset(tmp_path, modalities=["audio"], generated=False).require_files()
    data = RavdessDataset(tmp_path, modalities=["audio"], generated=True).load(2)
    assert data.fingerprint.startswith("generated") and (len(data.train), len(data.test)) == (8, 2)
    for path in (tmp_path / "Actor_10").iterdir():
        path.unlink()
    with pytest.raises(MissingData, match="actors of fold 2"):
        RavdessDataset(tmp_path, modalities=["audio"]).require_files()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"modalities": ["audio", "text"]}, "choose from audio, video"),
        ({"classes": 7}, "must be one of merge, eight, drop"),
        ({"modality_dropout": "soft"}, "must be one of null, softhard"),
        ({"channel_order": "grb"}, "must be one of bgr, rgb"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        RavdessDataset(tmp_path, **options)


def test_mfcc_are_kept_for_the_same_files_alone(tmp_path: Path) -> None:
    clips = [Clip(actors[0], emotion, 1, 1, 1) for actors in FOLDS for emotion in (1, 5)]
    write_clips(tmp_path, "audio", ".wav", sound_file(), clips)
    (tmp_path / "GENERATED").touch()
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "modalities": ["audio"]}
    first = RavdessDataset(tmp_path, **options).load(0)
    (mark,) = (tmp_path / "cache").glob("ravdess-audio-*/content.json")
    written = mark.stat().st_mtime_ns
    again = RavdessDataset(tmp_path, **options).load(0)
    assert again.fingerprint == first.fingerprint and mark.stat().st_mtime_ns == written
    assert torch.equal(again.train.inputs[0], first.train.inputs[0])
    write_clips(tmp_path, "audio", ".wav", sound_file(0.2), clips[:1])
    assert RavdessDataset(tmp_path, **options).load(0).fingerprint != first.fingerprint
    (mark.parent / "mfcc.npy").write_bytes(b"no array")
    write_clips(tmp_path, "audio", ".wav", sound_file(), clips[:1])
    with pytest.raises(UserError, match=r"the MFCC are damaged .*delete this folder"):
        RavdessDataset(tmp_path, **options).load(0)


# --- modality dropout


def batch(clips: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    sound, pictures = torch.randn(clips, 2, 4, generator=generator), torch.rand(clips, 3, 2, 2, 2, generator=generator)
    return Batch((sound, pictures), torch.arange(clips), torch.arange(clips) + 10)


def test_softhard_rows_are_the_four_of_the_released_code() -> None:
    one = batch()
    many = modality_dropout(one, ("audio", "video"), "softhard", Draws(0, 5), 100)
    assert many.target.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and many.index.tolist() == [10] * 4 + [11] * 4 + [12] * 4
    shares = set()
    for clip in range(3):
        a, v = one.inputs[0][clip], one.inputs[1][clip]
        sounds, pictures = (x[4 * clip : 4 * clip + 4] for x in many.inputs)
        c = float((sounds[1] / a).mean())
        shares.add(round(c, 4))
        assert 0 <= c <= 0.99 + 1e-6 and abs(100 * c - round(100 * c)) < 1e-3
        torch.testing.assert_close(sounds, torch.stack([a, c * a, 0 * a, a]))
        torch.testing.assert_close(pictures, torch.stack([v, (1 - c) * v, v, 0 * v]))
    assert len(shares) == 3


def test_noise_takes_the_place_of_one_modality() -> None:
    one, clips = batch(40), 40
    many = modality_dropout(one, ("audio", "video"), "noise", Draws(0, 5), 100)
    for place, x in enumerate(one.inputs):
        rows = many.inputs[place].unflatten(0, (clips, 3))
        noisy = 1 if place == 0 else 2
        for kept in {0, 1, 2} - {noisy}:
            assert torch.equal(rows[:, kept], x)
        assert abs(float(rows[:, noisy].mean())) < 0.2 and abs(float(rows[:, noisy].std()) - 1) < 0.15


def test_one_modality_gets_its_own_half_and_nothing_is_drawn_for_none() -> None:
    one = batch()
    both = modality_dropout(one, ("audio", "video"), "softhard", Draws(0, 5), 100)
    alone = modality_dropout(Batch(one.inputs[1:], *one[1:]), ("video",), "softhard", Draws(0, 5), 100)
    assert torch.equal(alone.inputs[0], both.inputs[1])
    assert modality_dropout(one, ("audio", "video"), "none", Draws(0, 5), 100) is one


def sounds(dropout: str) -> SoundClips:
    generator = torch.Generator().manual_seed(2)
    return SoundClips(
        (torch.randn(7, 2, 3, generator=generator),), torch.arange(7), (1,) * 7, ("audio",), dropout=dropout
    )


def test_draws_follow_from_seed_epoch_and_clip_alone() -> None:
    split, order = sounds("softhard"), torch.tensor([4, 0, 6, 2, 5, 1, 3])
    whole = list(split.batches(order, 3, CPU, Draws(3, 1)))
    rest = list(split.batches(order[3:], 3, CPU, Draws(3, 1)))
    assert [len(one.target) for one in whole] == [12, 12, 4]
    for one, other in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one.inputs, other.inputs, strict=True))
    for draws in (Draws(4, 1), Draws(3, 2)):
        assert not torch.equal(next(split.batches(order, 3, CPU, draws)).inputs[0], whole[0].inputs[0])
    assert torch.equal(next(split.batches(None, None, CPU)).inputs[0], split.inputs[0])  # evaluation: as it is
    assert (split.rows_per_sample, sounds("noise").rows_per_sample, sounds("none").rows_per_sample) == (4, 3, 1)
    assert Split((torch.zeros(1),), torch.zeros(1)).rows_per_sample == 1


def test_what_remembers_samples_does_not_train_on_several_rows_of_each() -> None:
    recipe = Recipe(partial(torch.optim.Adam, lr=1e-2), TrainerConfig(3, 1, 0.0, 1), "logits")
    for dropout in ("none", "softhard"):
        split = sounds(dropout)
        data = MultimodalData(split, None, split, ("audio",), tuple("abcdefg"), "toy")
        one = make_replicate(0, 0, None, data, lambda d: MLP(d.feature_shapes, 7), QMF)
        if dropout == "none":
            OrdinaryTrainer(one, recipe, CPU)
        else:
            with pytest.raises(
                UserError, match=r"of which these data make 4 rows each; take another method, or dataset\."
            ):
                OrdinaryTrainer(one, recipe, CPU)


# --- films


def test_golden_frame_numbers() -> None:
    released = [3, 10, 17, 24, 31, 39, 46, 53, 60, 67, 75, 82, 89, 96, 103]
    assert frame_numbers(88, "first") == frame_numbers(157, "first") == frame_numbers(88, "centred") == released
    assert frame_numbers(157, "centred") == [24 + number for number in released]


@pytest.mark.parametrize("frames, window, first, last, number", [(110, "first", 3, 103, 15), (90, "first", 3, 89, 13)])
def test_the_frames_are_those_of_the_numbers(
    frames: int, window: str, first: int, last: int, number: int, tmp_path: Path
) -> None:
    found = read_frames(on_disk(tmp_path, film(frames)), window)
    brightness = [float(picture.mean()) / 2 for picture in found]
    expected = [one for one in frame_numbers(frames, window) if one < frames]
    assert len(found) == number and found[0].shape == (48, 64, 3)
    np.testing.assert_allclose(brightness, expected, atol=1.1)
    assert (round(brightness[0]), round(brightness[-1])) == pytest.approx((first, last), abs=1)


def test_a_centred_window_is_that_of_the_sound(tmp_path: Path) -> None:
    found = read_frames(on_disk(tmp_path, film(120, step=1)), "centred")
    np.testing.assert_allclose([float(picture.mean()) for picture in found], frame_numbers(120, "centred"), atol=1.6)


@pytest.mark.parametrize(
    "content", [b"", b"no film", film(12)[:500], sound_file()], ids=["empty", "text", "cut off", "sound"]
)
def test_what_is_no_film_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"film\.mp4: .*; delete film\.mp4, then make data-ravdess") as caught:
        read_frames(on_disk(tmp_path, content), "first")
    assert "\n" not in str(caught.value)


def literal_resize(part: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Bilinear, the centres of pixels on a grid from -1/2 to n - 1/2, edges repeated: OpenCV's INTER_LINEAR."""
    height, width = part.shape[:2]
    result = np.zeros((side, side, 3))
    for y in range(side):
        for x in range(side):
            v, u = max((y + 0.5) * height / side - 0.5, 0), max((x + 0.5) * width / side - 0.5, 0)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            b, r = v - top, u - left
            result[y, x] = (1 - b) * ((1 - r) * part[top, left] + r * part[top, right].astype(float)) + b * (
                (1 - r) * part[bottom, left] + r * part[bottom, right].astype(float)
            )
    return result


def test_crops_are_resized_as_by_opencv_and_boxes_end_at_the_edge() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    expected = literal_resize(picture[0:17, 5:40], 20)
    assert np.abs(crop(picture, (5, -4, 44, 17), 20) - expected).max() <= 0.5 + 1e-3
    assert crop(picture, (50, 50, 60, 60), 20).shape == (20, 20, 3)


def test_faces_that_are_not_found_take_the_box_before(tmp_path: Path) -> None:
    boxes: list[Box | None] = [None, (0, 0, 32, 48), None, (32, 0, 64, 48), *[None] * 9]
    used: list[Box] = []

    def watched(picture: Picture, box: Box, side: int) -> Picture:
        used.append(box)
        return np.full((side, side, 3), len(used), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ravdess_video, "crop", watched)
        recording = on_disk(tmp_path, film(90))
        crops, seen = crops_of(recording, "first", "black", lambda pictures: boxes)
        repeated, _ = crops_of(recording, "first", "repeat", lambda pictures: boxes)
    left, right = (0, 0, 32, 48), (32, 0, 64, 48)
    assert used[:13] == [left, left, left, *[right] * 10] and seen == Seen(without_face=11, lacking=2)
    assert [int(one.max()) for one in crops] == [*range(1, 14), 0, 0]
    assert [int(one.max()) for one in repeated] == [*range(14, 27), 26, 26]
    _, none = crops_of(recording, "first", "black", lambda pictures: [None] * 13)
    assert none == Seen(without_face=13, lacking=2)


def films(folder: Path, content: bytes | None = None) -> list[Clip]:
    clips = [Clip(actors[0], emotion, 1, 1, 1) for actors in FOLDS for emotion in (1, 5)]
    write_clips(folder, "video", ".mp4", film(100) if content is None else content, clips)
    write_clips(folder, "audio", ".wav", sound_file(), clips)
    (folder / "GENERATED").touch()
    return clips


def made_up(folder: Path, **options: Any) -> RavdessDataset:
    return RavdessDataset(folder, folder / "cache", faces="none", **options)


def test_preparing_goes_on_where_it_stopped_and_names_unreadable_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = films(tmp_path)
    bad = [tmp_path / f"Actor_{clip.actor:02}" / f"{clip.stem('video')}.mp4" for clip in (clips[1], clips[4])]
    whole = bad[0].read_bytes()
    for path in bad:
        path.write_bytes(b"no film")
    with pytest.raises(
        UserError, match=rf"2 of 10 films cannot be read: .*{bad[0].name}.*; and 1 more: .*{bad[1].name}"
    ):
        made_up(tmp_path).prepare_faces(jobs=1)
    made: list[str] = []
    original = ravdess_video.crops_of

    def counted(recording: Recording, *rest: Any) -> Any:
        made.append(recording.path.name)
        if len(made) == 4:
            raise KeyboardInterrupt
        return original(recording, *rest)

    for path in bad:
        path.write_bytes(whole)
    monkeypatch.setattr(ravdess_video, "crops_of", counted)
    with pytest.raises(KeyboardInterrupt):  # the files changed, so all are made anew
        made_up(tmp_path).prepare_faces(jobs=1)
    (journal,) = (path for path in tmp_path.glob("cache/*.part/clips.jsonl") if len(path.read_text().splitlines()) == 3)
    journal.write_text(journal.read_text()[:-4])  # the last line was being written
    folder, seen, fingerprint = made_up(tmp_path).prepare_faces(jobs=1)
    assert len(made) == 4 + 8 and seen == [Seen(0, 1)] * 10
    crops = np.load(folder / "crops.npy", mmap_mode="r")
    assert crops.shape == (10, 15, 224, 224, 3) and crops[:, :14].min() > 0 and not crops[:, 14].any()
    monkeypatch.setattr(ravdess_video, "write_crops", None)  # it is not called again
    assert made_up(tmp_path).prepare_faces() == (folder, seen, fingerprint)


def test_two_processes_make_the_crops_of_one(tmp_path: Path) -> None:
    films(tmp_path, film(40, size=(32, 32)))
    prints = {
        RavdessDataset(tmp_path, tmp_path / f"cache{jobs}", faces="none").prepare_faces(jobs)[2] for jobs in (1, 2)
    }
    assert len(prints) == 1


def test_without_a_detector_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films(tmp_path)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    ravdess_video._mtcnn.cache_clear()
    with pytest.raises(MissingData, match=r"face detector is not installed .*--no-deps facenet-pytorch"):
        RavdessDataset(tmp_path, tmp_path / "cache").load(0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ravdess")
    films(folder, film(110, size=(64, 64)))
    made_up(folder).prepare_faces(jobs=1)
    return folder


def test_samples_are_what_the_contract_says(prepared: Path) -> None:
    data = made_up(prepared).load(0)
    assert data.feature_shapes == ((10, 156), (3, 15, 224, 224)) and data.modalities == ("audio", "video")
    assert isinstance(data.test, FilmClips) and len(data.test) == 2 and data.test.actors == (2, 2)
    sound, pictures = data.test.rows(slice(None))
    assert (sound.shape, pictures.shape) == ((2, 10, 156), (2, 3, 15, 224, 224))
    assert pictures.dtype == torch.float32 and float(pictures.min()) >= 0 and float(pictures.max()) <= 1
    alone = made_up(prepared, modalities=["audio"]).load(0)
    assert torch.equal(alone.test.inputs[0], sound)
    assert data.test.ids().tolist() == alone.test.ids().tolist()
    assert [(name[:3], name[-2:]) for name in data.test.ids()] == [("03-", "02")] * 2
    assert torch.equal(made_up(prepared, modalities=["video"]).load(0).test.rows(slice(None))[0], pictures)
    brightness = pictures.mean(dim=(0, 1, 3, 4)) * 255 / 2
    np.testing.assert_allclose(brightness, frame_numbers(110, "first"), atol=1.1)
    assert data.test.description() == {"clips_without_face": 0, "frames_without_face": 0, "frames_lacking": 0}


def test_channels_and_pixels_as_asked() -> None:
    crops = np.zeros((15, 224, 224, 3), np.uint8)
    crops[..., 0], crops[..., 1], crops[..., 2] = 255, 51, 102
    as_video = ravdess_video.as_video
    assert as_video(crops, "bgr", "unit")[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.2, 1.0])
    assert as_video(crops, "rgb", "unit")[:, 0, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.4])
    expected = [(1 - 0.55391) / 0.24837, (0.2 - 0.43522) / 0.21626, (0.4 - 0.38218) / 0.20222]
    assert as_video(crops, "rgb", "affectnet")[:, 0, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_augmentation_is_one_draw_for_all_frames_of_a_clip() -> None:
    rng = np.random.default_rng(0)
    crops = np.repeat(rng.integers(0, 256, (1, 32, 32, 3), np.uint8), 2, axis=0)
    mirrored, angles = 0, set()
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)
        found = ravdess_video.augmented(crops, generator)
        assert np.array_equal(found[0], found[1])
        fits = [
            (flip, angle)
            for flip in (False, True)
            for angle in range(-10, 11)
            if np.array_equal(
                found[0],
                Image.fromarray(np.ascontiguousarray(crops[0, :, ::-1] if flip else crops[0])).rotate(
                    angle, Image.Resampling.BILINEAR
                ),
            )
        ]
        ((flip, angle),) = fits
        mirrored += flip
        angles.add(angle)
    assert 3 <= mirrored <= 13 and len(angles) > 6 and min(angles) < -5 and max(angles) > 5


def rows_of(data: Split, order: Tensor, workers: int, start: int = 0) -> list[tuple[Tensor, ...]]:
    return [one.inputs for one in data.batches(order[start:], 2, CPU, Draws(0, 3), workers)]


def test_clips_are_the_same_for_any_workers_and_after_a_kill(prepared: Path) -> None:
    train, order = made_up(prepared).load(0).train, torch.tensor([5, 0, 3, 7])
    whole = rows_of(train, order, 0)
    assert [x.shape for x in whole[0]] == [(8, 10, 156), (8, 3, 15, 224, 224)]
    for others in (rows_of(train, order, 2), whole[:1] + rows_of(train, order, 0, start=2)):
        for one, other in zip(whole, others, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_training_continues_bit_for_bit_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    trainer = training(sounds("softhard"))
    for _ in range(4):
        trainer.step()
    middle, others = trainer.state_dict(), training(sounds("softhard"))
    weights = trainer._replicate.state_dict()
    others._replicate.load_state_dict({part: dict(values) for part, values in weights.items()})
    others.load_state_dict(torch.load(io.BytesIO(_saved(middle)), weights_only=True))
    ends = []
    for one in (trainer, others):
        losses = [one.step() for _ in range(5)]
        ends.append((losses, [p.detach().clone() for p in one._replicate.backbone.parameters()]))
    (losses, parameters), (again, same) = ends
    assert [loss is None for loss in losses] == [True, False, True, True, False]
    assert all(torch.equal(x, y) for x, y in zip(losses, again, strict=True) if x is not None and y is not None)
    assert all(torch.equal(x, y) for x, y in zip(parameters, same, strict=True))


def _saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def training(split: SoundClips) -> OrdinaryTrainer:
    data = MultimodalData(split, None, split, ("audio",), tuple("0123456"), "toy")
    replicate = make_replicate(0, 0, 0, data, lambda data: MLP(data.feature_shapes, 7, hidden=(5,)), SumCrossEntropy)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.9)
    return OrdinaryTrainer(replicate, Recipe(optimizer, TrainerConfig(3, 9, 0.0, 9), "logits"), CPU)
