"""EPIC-KITCHENS: which clips and frames, and what becomes of them, against the facts and a literal reading."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import get_epic
from conftest import ROOT
from make_epic_like import COLUMNS, write_like
from multimodal_loss.configuration import compose_config
from multimodal_loss.datasets import Batch, Draws, EpicDataset
from multimodal_loss.datasets.epic import ClipSplit
from multimodal_loss.datasets.epic_annotations import (
    ANNOTATIONS,
    KITCHENS,
    PUBLISHED,
    Clip,
    as_released,
    counts,
    frame_key,
    frame_of,
    frame_path,
    read_clips,
    require_published,
    sampled_frames,
    split_clips,
)
from multimodal_loss.errors import MissingData, UserError

CPU = torch.device("cpu")
WIDTH, HEIGHT, CROP = 44, 36, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips to train on, six to validate, six to test and what belongs around them; frames of both flow indices."""
    path = tmp_path_factory.mktemp("epic")
    write_like(path, clips=(10, 6, 6), size=(WIDTH, HEIGHT))
    get_epic.get(path, path / "EPIC-KITCHENS", flow_index="both")
    return path


def dataset(folder: Path, **options: Any) -> EpicDataset:
    return EpicDataset(folder, **{"crop": CROP, **options})


def part(folder: Path, name: str = "train", **options: Any) -> ClipSplit:
    split = getattr(dataset(folder, **options).load(), name)
    assert isinstance(split, ClipSplit)
    return split


# --- which clips


def clip(narration: str, start: int = 1, length: int = 60, verb: int = 0) -> Clip:
    video = narration.rpartition("_")[0]
    return Clip(narration, video.partition("_")[0], video, start, start + length - 1, verb)


def test_the_splits_follow_the_rule() -> None:
    train = [
        clip("P01_01_0", verb=9),  # of another verb, so not the first
        clip("P01_01_1"),  # the first of its video
        clip("P01_01_10", length=16, verb=7),
        clip("P01_01_2", length=15),
        clip("P01_01_3", verb=8),
        clip("P01_105_0"),
        clip("P01_105_679"),
        clip("P01_105_68", verb=3),
        clip("P01_107_0"),
        clip("P01_107_1", verb=1),
        clip("P01_107_2", length=3),
        clip("P02_01_0"),
        clip("P02_01_1"),
        clip("P22_14_5", length=15),  # the first, although it is short
        clip("P22_14_6"),
    ]
    test = [clip("P01_11_0", length=1), clip("P08_09_0", verb=8), clip("P08_09_1", verb=7), clip("P03_01_1")]
    splits = split_clips(train, test)
    assert {name: [c.narration for c in clips] for name, clips in splits.items()} == {
        "train": ["P01_01_10", "P01_105_68"],
        "validation": ["P01_107_1", "P22_14_6"],
        "test": ["P01_11_0", "P08_09_1"],
    }
    lines = ["narration_id,participant_id,video_id,start_frame,stop_frame,verb", "P01_01_10,P01,P01_01,1,16,7"]
    assert as_released(splits["train"]).decode() == "\n".join([*lines, "P01_105_68,P01,P01_105,1,60,3", ""])
    found = counts(splits["train"])
    assert found.classes == {"P01": (0, 0, 0, 1, 0, 0, 0, 1), "P08": (0,) * 8, "P22": (0,) * 8}
    assert (found.videos, found.extension) == (2, 1)


def test_the_published_counts_add_up() -> None:
    """By kitchen and by class they come from different columns of what others counted."""
    by_class = {
        "train": [3230, 3089, 1913, 990, 792, 274, 521, 318],
        "validation": [525, 480, 357, 186, 143, 67, 84, 51],
        "test": [562, 550, 447, 196, 143, 64, 97, 56],
    }
    by_kitchen = {"train": [3323, 1084, 6720], "validation": [720, 412, 761], "test": [713, 412, 990]}
    for split, published in PUBLISHED.items():
        assert [sum(column) for column in zip(*published.classes.values(), strict=True)] == by_class[split]
        assert [sum(published.classes[kitchen]) for kitchen in KITCHENS] == by_kitchen[split]


def test_other_clips_are_not_taken_for_the_published_ones(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        require_published(folder, read_clips(folder))
    message = str(error.value)
    assert "10 train clips of 5 videos where 11,127 of 58 were published" in message and "\n" not in message
    assert "other numbers of clips in P01, P08, P22" in message


FIRST = {name: "x" for name in COLUMNS} | {"participant_id": "P01", "video_id": "P01_01", "verb_class": 2}
FIRST |= {"narration_id": "P01_01_0", "start_frame": 3, "stop_frame": 9}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stop_frame": 2}, "row 2 cannot be"),
        ({"start_frame": 0}, "row 2 cannot be"),
        ({"stop_frame": 2**40}, "row 2 cannot be"),
        ({"verb_class": -1}, "row 2 cannot be"),
        ({"video_id": "P02_01"}, "row 2 cannot be"),
        ({"video_id": "P01_../../x"}, "row 2 cannot be"),
        ({"participant_id": "P1", "video_id": "P1_01"}, "row 2 cannot be"),
        ({"narration_id": "P01_01_0"}, "there twice"),
        ({"start_frame": "1.5"}, "not an annotation file"),
        ({"verb_class": ""}, "not an annotation file"),
    ],
)
def test_annotations_that_cannot_be(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    pd.DataFrame([FIRST]).to_csv(tmp_path / ANNOTATIONS["test"])
    pd.DataFrame([FIRST, {**FIRST, "narration_id": "P01_01_1", **change}]).to_csv(tmp_path / ANNOTATIONS["train"])
    with pytest.raises(UserError, match=complaint) as error:
        read_clips(tmp_path)
    assert ANNOTATIONS["train"] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0\xff\xfe" * 50, b"a,b\n1,2\n", b'narration_id,"\n' * 3])
def test_files_that_are_no_annotations(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ANNOTATIONS["train"]).write_bytes(content)
    with pytest.raises(UserError, match="not an annotation file"):
        read_clips(tmp_path)


# --- which frames


def test_frames_are_those_of_x_norm() -> None:
    """Worked out from its code; both readings of the flow's numbers."""
    clips = [clip("P01_01_1", 262, 109), clip("P01_11_0", 1, 113), clip("P22_109_1", 217, 66)]
    clips.append(clip("P01_103_50", 4325, 16))
    rgb = ["262 269 276 283 290 298 305 312 319 326 334 341 348 355 362 370"]
    rgb += ["1 8 15 23 30 38 45 53 60 68 75 83 90 98 105 113"]
    rgb += ["217 221 225 230 234 238 243 247 251 256 260 264 269 273 277 282"]
    rgb += [" ".join(map(str, range(4325, 4341)))]
    flow = ["131 134 138 141 145 149 152 156 159 163 167 170 174 177 181 185"]
    flow += ["1 4 8 12 15 19 23 27 30 34 38 42 45 49 53 57"]
    halved = ["109 111 113 115 117 119 121 123 126 128 130 132 134 136 138 141"]
    halved += ["2163 2163 2163 2164 2164 2165 2165 2166 2166 2167 2167 2168 2168 2169 2169 2170"]
    for flow_index, extension in (("upstream", halved), ("fixed", rgb[2:])):
        found = sampled_frames(clips, flow_index)
        for frames, expected in zip(found, (rgb, flow + extension), strict=True):
            assert [" ".join(map(str, row)) for row in frames.tolist()] == expected


def test_frames_are_linspace_rounded_down_for_every_length() -> None:
    clips = [clip("P01_101_0", start, length) for start in (1, 17) for length in range(1, 3600)]
    rgb, flow = sampled_frames(clips, "upstream")
    for c, row, halved in zip(clips, rgb, flow, strict=True):
        assert (row == c.start + np.floor(np.linspace(0, c.stop - c.start, 16))).all()
        first, last = (c.start + 1) // 2, (c.stop + 1) // 2
        assert (halved == first + np.floor(np.linspace(0, last - first, 16))).all()


def test_a_frame_has_a_number_of_its_own_and_its_place_on_disk() -> None:
    frames = [(v, s, n) for v in ("P01_01", "P01_10", "P01_101", "P22_110") for s in ("rgb", "u", "v") for n in (1, 99)]
    keys = [frame_key(*frame) for frame in frames]
    assert len(set(keys)) == len(keys) and [frame_of(key) for key in keys] == frames
    assert frame_path(keys[0]) == "P01/rgb_frames/P01_01/frame_0000000001.jpg"
    assert frame_path(keys[-1]) == "P22/flow_frames/P22_110/v/frame_0000000099.jpg"


# --- what becomes of them


def pictures(folder: Path, video: str, stream: str, numbers: list[int]) -> NDArray[np.float64]:
    """The frames of a tar (16, height, width, channels) in [-1, 1], by other readers than the dataset's."""
    import tarfile

    kitchen, modality = video.partition("_")[0], "rgb" if stream == "rgb" else "flow"
    prefix = "" if stream == "rgb" else f"{stream}/"
    with tarfile.open(folder / "EPIC-KITCHENS" / kitchen / f"{modality}_frames" / f"{video}.tar") as archive:
        frames = []
        for number in numbers:
            file = archive.extractfile(f"{prefix}frame_{number:010d}.jpg")
            assert file is not None
            picture = Image.open(io.BytesIO(file.read())).convert("RGB" if stream == "rgb" else "L")
            frames.append(np.asarray(picture, np.float64).reshape(HEIGHT, WIDTH, -1))
    return np.stack(frames) / 255 * 2 - 1


def whole(folder: Path, c: Clip, flow_index: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RGB (3, 16, height, width) and flow (2, 16, height, width) before they are cropped."""
    rgb, flow = (frames[0].tolist() for frames in sampled_frames([c], flow_index))
    u, v = (pictures(folder, c.video, stream, flow) for stream in ("u", "v"))
    return pictures(folder, c.video, "rgb", rgb).transpose(3, 0, 1, 2), np.stack([u[..., 0], v[..., 0]])


@pytest.mark.parametrize("flow_index", ["upstream", "fixed"])
def test_samples_are_the_middle_of_the_frames_on_disk(folder: Path, flow_index: str) -> None:
    splits = read_clips(folder)
    for name, split in (("validation", "validation"), ("test", "test")):
        batches = list(part(folder, name, flow_index=flow_index).batches(None, 4, CPU))
        rgb, flow = (torch.cat([b.inputs[m] for b in batches]) for m in range(2))
        assert torch.equal(part(folder, name, flow_index=flow_index).rows(slice(1, 3))[0], rgb[1:3])
        assert rgb.dtype == flow.dtype == torch.float32 and len(rgb) == len(splits[split])
        assert torch.cat([b.target for b in batches]).tolist() == [c.verb for c in splits[split]]
        top, left = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
        for number, c in enumerate(splits[split]):
            for sample, expected in zip((rgb[number], flow[number]), whole(folder, c, flow_index), strict=True):
                middle = torch.from_numpy(expected[:, :, top : top + CROP, left : left + CROP])
                torch.testing.assert_close(sample.double(), middle, rtol=0, atol=2e-7)


def test_a_frame_of_456_by_256_is_cut_at_16_and_116(folder: Path) -> None:
    split = part(folder)
    split.store.entries["width"], split.store.entries["height"] = 456, 256
    object.__setattr__(split, "crop", 224)
    assert {tuple(view) for view in split._views(0, None).values()} == {(16, 116, False)}
    views = [split._views(0, Draws(0, e).generator(0)) for e in range(3000)]
    for modality in ("rgb", "flow"):
        top, left, mirrored = (np.array(x) for x in zip(*(v[modality] for v in views), strict=True))
        for drawn, room in ((top, 32), (left, 232)):
            assert set(drawn.tolist()) == set(range(room + 1))
            assert abs(drawn.mean() - room / 2) < 4 * room / 12**0.5 / len(views) ** 0.5
        assert abs(mirrored.mean() - 0.5) < 0.04
    both = np.array([[v["rgb"].left, v["flow"].left] for v in views], float)
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.08  # drawn independently


def found_view(sample: NDArray[np.float64], frames: NDArray[np.float64], turned: bool) -> tuple[int, int, bool]:
    """Where a sample was cut out of (channels, 16, height, width): the same place in all frames, or none is found.

    `turned`: the first channel of a mirrored one has the other sign.
    """
    for mirrored in (False, True):
        source = frames[..., ::-1].copy() if mirrored else frames
        if mirrored and turned:
            source[0] *= -1
        windows = np.lib.stride_tricks.sliding_window_view(source, (CROP, CROP), axis=(2, 3))
        distance = np.abs(windows - sample[:, :, None, None]).max(axis=(0, 1, 4, 5))
        if distance.min() < 1e-6:
            top, left = np.unravel_index(distance.argmin(), distance.shape)
            return int(top), int(WIDTH - CROP - left if mirrored else left), mirrored
    raise AssertionError("no part of the frames")


@pytest.mark.parametrize("augmentation", ["independent", "joint", "none"])
def test_training_clips_are_cut_and_mirrored_as_a_whole(folder: Path, augmentation: str) -> None:
    split, clips = part(folder, augmentation=augmentation), read_clips(folder)["train"]
    views = []
    for epoch in range(2):
        (batch,) = split.batches(torch.arange(6), None, CPU, Draws(3, epoch))
        for number in range(6):
            samples = [x[number].double().numpy() for x in batch.inputs]
            frames = whole(folder, clips[number], "upstream")
            flow = found_view(samples[1], frames[1], turned=augmentation == "joint")
            views.append((found_view(samples[0], frames[0], turned=False), flow))
    same = [rgb == flow for rgb, flow in views]
    assert all(same) if augmentation != "independent" else sum(same) < 3  # of 12, each with 1 in 130
    assert (len(set(views)) == 1) == (augmentation == "none")
    assert {mirrored for view in views for *_, mirrored in view} == (
        {False} if augmentation == "none" else {False, True}
    )


def test_one_modality_alone_is_what_it_is_beside_the_other(folder: Path) -> None:
    (both,) = part(folder).batches(None, None, CPU, Draws(1, 1))
    for number, modality in enumerate(("rgb", "flow")):
        split = part(folder, modalities=[modality])
        (alone,) = split.batches(None, None, CPU, Draws(1, 1))
        assert len(alone.inputs) == 1 and torch.equal(alone.inputs[0], both.inputs[number])
        assert split.feature_shapes == (tuple(alone.inputs[0].shape[1:]),)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_same_for_any_number_of_workers_and_wherever_it_goes_on(folder: Path, workers: int) -> None:
    split, order, draws = part(folder), torch.tensor([6, 0, 3, 5, 1, 2, 4]), Draws(1, 2)

    def same(a: Batch, b: Batch) -> bool:
        pairs = zip((*a.inputs, *a[1:]), (*b.inputs, *b[1:]), strict=True)
        return all(x is y is None or torch.equal(x, y) for x, y in pairs)

    expected = list(split.batches(order, 2, CPU, draws))
    for seen in (0, 4):
        batches = list(split.batches(order[seen:], 2, CPU, draws, workers))
        assert len(batches) == (7 - seen + 1) // 2 and all(map(same, batches, expected[seen // 2 :]))


def test_only_whole_batches_are_scored_where_asked_for(folder: Path) -> None:
    data = dataset(folder, drop_last_eval=4).load()
    full = dataset(folder).load()
    assert data.validation is not None and full.validation is not None
    sizes = [(len(d.train), len(d.validation or ()), len(d.test)) for d in (full, data)]
    assert sizes == [(10, 6, 12), (10, 4, 12)]  # of the test videos, also the first and the short clip count
    assert data.fingerprint != full.fingerprint
    with pytest.raises(UserError, match="no validation clips; try a smaller"):
        dataset(folder, drop_last_eval=7).load()


def test_the_fingerprint_tells_options_and_generated_clips(folder: Path) -> None:
    options: list[dict[str, Any]] = [{}, {"flow_index": "fixed"}, {"crop": 30}, {"augmentation": "joint"}]
    options += [{"modalities": ["flow"]}]
    prints = [dataset(folder, **o).fingerprint() for o in options]
    assert len(set(prints)) == len(prints) and all(p.startswith("generated-") for p in prints)
    assert prints[0] == dataset(folder).fingerprint() == dataset(folder).load().fingerprint


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"modalities": []}, "dataset.modalities=[]: choose from rgb, flow, each once"),
        ({"modalities": ["rgb", "audio"]}, "choose from rgb, flow"),
        ({"modalities": ["flow", "rgb"]}, "the order is rgb, flow"),
        ({"flow_index": "half"}, "dataset.flow_index=half: must be one of upstream, fixed"),
        ({"augmentation": "both"}, "dataset.augmentation=both: must be one of independent, joint, none"),
        ({"crop": 0}, "dataset.crop=0"),
        ({"drop_last_eval": 1.5}, "dataset.drop_last_eval=1.5"),
        ({"generated": False}, "holds generated data (file GENERATED), but dataset.generated=false"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        dataset(folder, **options).load()
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_a_crop_larger_than_the_frames_names_them(folder: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.crop=37: .*frame_\d{10}.jpg of clip P\S+ has 44 x 36 pixels"):
        part(folder, crop=37).sample(0, None)


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="new does not exist"):
        EpicDataset(tmp_path / "new").require_files()
    for name in (*ANNOTATIONS.values(), "frames/index.npy"):
        with pytest.raises(MissingData, match=f"{name} does not exist"):
            EpicDataset(tmp_path).require_files()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    EpicDataset(tmp_path).require_files()
    entries = np.load(tmp_path / "frames/index.npy")
    key = frame_key("P01_11", "u", 3)
    np.save(tmp_path / "frames/index.npy", entries[entries["key"] != key])
    (tmp_path / "GENERATED").touch()
    with pytest.raises(
        MissingData, match="1 flow frames of test clips missing, P01/flow_frames/P01_11/u/frame_0000000003"
    ):
        dataset(tmp_path).load()


def test_the_configs_say_what_each_is() -> None:
    real, like = (compose_config([f"dataset={name}"]) for name in ("epic", "epic_like"))
    assert (real.dataset.generated, like.dataset.generated) == (False, True)
    assert real.dataset.crop == 224 and real.dataset.flow_index == "upstream"
    assert "Generated" in like.facts.dataset.title and "make data-epic" in real.facts.dataset.how_to_get
    assert (ROOT / "scripts" / "get_epic.py").is_file()
