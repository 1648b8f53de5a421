"""The made-up clips: RAVDESS's names and formats, half of the label in each modality, and nothing real overwritten."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from conftest import ROOT
from multimodal_loss.datasets import RavdessDataset
from multimodal_loss.datasets.ravdess import FOLDS
from multimodal_loss.errors import UserError

sys.path.insert(0, str(ROOT / "scripts"))
import make_ravdess_like as like


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("like") / "ravdess-like"
    like.write_like(path, actors=5, clips=8, size=32)
    return path


def test_the_dataset_takes_them_for_generated_and_for_nothing_else(folder: Path, tmp_path: Path) -> None:
    options = {"cache_dir": tmp_path, "faces": "none", "side": 32}
    dataset = RavdessDataset(folder, generated=True, **options)
    dataset.require_files()
    dataset.prepare_faces(jobs=1)
    data = dataset.load(0)
    assert data.feature_shapes == ((10, 156), (3, 15, 32, 32)) and data.fingerprint.startswith("generated")
    assert len(data.train) == 4 * 8 and sorted(data.test.target.tolist()) == [0, 0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(UserError, match="holds generated data"):
        RavdessDataset(folder, generated=False, **options).require_files()


def test_files_have_the_published_names_and_formats(folder: Path) -> None:
    names = sorted(path.name for path in (folder / f"Actor_{FOLDS[0][0]:02}").iterdir())
    assert len(names) == 16 and names[0] == "01-01-01-01-01-01-02.mp4" and names[-1] == "03-01-08-01-01-01-02.wav"
    sound = soundfile.info(folder / "Actor_02" / names[-1])
    assert (sound.samplerate, sound.channels, sound.subtype) == (48_000, 1, "PCM_16")
    with av.open(folder / "Actor_02" / names[0]) as film:
        video, voice = film.streams.video[0], film.streams.audio[0]
        assert video.codec_context.name == "h264" and voice.codec_context.name == "aac" and video.average_rate == 30
        frames = sum(1 for _ in film.decode(video=0))
    seconds = soundfile.info(folder / "Actor_02" / "03-01-01-01-01-01-02.wav").duration
    assert 88 <= frames < 136 and frames / 30 == pytest.approx(seconds, abs=0.01)


def pitch(path: Path) -> float:
    samples, rate = soundfile.read(path)
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


def test_sound_and_picture_tell_different_halves_of_an_emotion(folder: Path) -> None:
    actor = folder / f"Actor_{FOLDS[1][0]:02}"
    pitches = {int(path.name[6:8]): pitch(path) for path in actor.glob("03-*.wav")}
    for emotion in range(1, 5):
        assert pitches[emotion] == pytest.approx(pitches[emotion + 4], rel=0.05)
    assert all(pitches[e + 1] > 1.2 * pitches[e] for e in (1, 2, 3))
    drawn = []
    for emotion in range(1, 9):
        clip = next(c for c in like.chosen_clips(5, 8) if c.emotion == emotion)
        drawn.append(next(like.frames(clip, 1, 64, np.random.default_rng(0))).astype(int))
    for first in range(8):
        for second in range(first + 1, 8):
            same = np.abs(drawn[first] - drawn[second]).max() == 0
            assert same == (first // 2 == second // 2)


def test_what_is_there_is_left_alone_and_other_options_replace_it(tmp_path: Path) -> None:
    like.write_like(tmp_path, actors=5, clips=1, size=16)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    like.write_like(tmp_path, actors=5, clips=1, size=16)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == before
    stray = tmp_path / "Actor_02" / "01-01-08-02-02-02-02.mp4"
    stray.touch()
    like.write_like(tmp_path, actors=5, clips=1, size=16, seed=1)
    assert not stray.exists() and len(list(tmp_path.rglob("*.mp4"))) == 5
    assert "not complete" not in (tmp_path / "GENERATED").read_text()


def test_actors_are_of_all_folds_and_emotions_come_in_turn() -> None:
    clips = like.chosen_clips(10, 16)
    assert [len({c.actor for c in clips} & set(fold)) for fold in FOLDS] == [2] * 5
    for actor in {c.actor for c in clips}:
        emotions = [c.emotion for c in clips if c.actor == actor]
        assert emotions == [*range(1, 9)] * 2
    assert len(like.chosen_clips(24, 60)) == 1440


def test_real_files_and_bad_numbers_are_refused_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Actor_01").mkdir()
    for options in ({}, {"actors": 4}, {"clips": 0}, {"size": 33}, {"actors": 25}, {"seed": -1}):
        with pytest.raises(UserError) as caught:
            like.write_like(tmp_path, **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "GENERATED").exists()
    monkeypatch.setattr(sys, "argv", ["make_ravdess_like.py", "--folder", str(tmp_path)])
    assert like.main() == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "give another --folder" in told
