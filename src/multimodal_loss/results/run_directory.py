"""The run directory: one config, all its replicates. Every file is written under a temporary name and renamed."""

import csv
import fcntl
import hashlib
import io
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_loss.files import WriteError, write_atomically

SCHEMA = 2
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "hydra-core", "omegaconf")


# What is read of a done run besides result.json, which holds their sizes and checksums. Not the checkpoint: without it
# the numbers stand.
RECORDED = ("config.yaml", "history.csv", "predictions.npz")


def is_logged(epoch: int) -> bool:
    """Which epochs history keeps beside each replicate's last: the first 100, then every 10th."""
    return epoch <= 100 or epoch % 10 == 0


class RunDirectory:
    """Files of one run under `<output_dir>/<name>-<hash>/`; the README's section on results lists them."""

    def __init__(self, path: Path, hash: str = "") -> None:
        self.path, self.hash = path, hash
        self.checkpoint = path / "checkpoint.pt"
        self.predictions = path / "predictions.npz"
        self.result = path / "result.json"

    @classmethod
    def of(cls, folder: Path, name: str, hash: str) -> "RunDirectory":
        """The hash's, whatever name was in use when it was made; under this name where there is none."""
        made = sorted(path for path in folder.glob(f"*-{hash}") if not path.name.startswith("."))
        return cls(made[0] if made else folder / f"{name}-{hash}", hash)

    def create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                f"cannot make the run directory {self.path}: {error.strerror}; choose another with output_dir="
            ) from error

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the run for this process; if another holds it, call `waiting` once and wait. Its death frees the run.

        Raises WriteError if its lock file cannot be opened.
        """
        path = self.path / ".lock"
        try:
            file = open(path, "w")  # noqa: SIM115
        except OSError as error:
            raise WriteError(
                f"cannot open {path}: {error.strerror}; delete it, or choose another folder with output_dir="
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def is_done(self) -> bool:
        """True when result.json says that the run is done and its files are as it says; unreadable is not done."""
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
            return bool(result["status"] == "done") and not damage(self.path, result)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def content(self) -> dict[str, Any]:
        """What result.json says of a done run; `data` is the identity of the data that it was computed from."""
        content: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return content

    def set_aside(self) -> Path:
        """Move everything but the lock into a hidden folder beside, whose path is returned, and begin anew."""
        number = 1
        while (kept := self.path.with_name(f".{self.path.name}.{number}")).exists():
            number += 1
        try:
            kept.mkdir()
            for path in [path for path in self.path.iterdir() if path.name != ".lock"]:
                path.rename(kept / path.name)
        except OSError as error:
            raise WriteError(f"cannot move {self.path} to {kept}: {error.strerror}") from error
        return kept

    def write_text(self, name: str, text: str) -> None:
        write_atomically(self.path / name, lambda file: file.write(text.encode()))

    def write_history(self, rows: Sequence[Sequence[float]]) -> None:
        """Rows (replicate_id, epoch, train_loss, seconds)."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["replicate_id", "epoch", "train_loss", "seconds"])
        writer.writerows(
            [int(number), int(epoch), f"{loss:.9g}", f"{seconds:.2f}"] for number, epoch, loss, seconds in rows
        )
        self.write_text("history.csv", text.getvalue())

    def write_predictions(self, predictions: Mapping[int, Mapping[str, NDArray[Any]]]) -> None:
        """By replicate id: `target` (N,), and the probabilities `fused` (N, C) and `modalities` (N, M, C)."""
        arrays = {f"{number}/{key}": array for number, parts in predictions.items() for key, array in parts.items()}
        write_atomically(self.predictions, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]

    def write_result(self, result: Mapping[str, Any]) -> None:
        if result["status"] == "done":
            result = {**result, "files": {name: _print_of(self.path / name) for name in RECORDED}}
        text = json.dumps({"schema": SCHEMA, **result}, indent=1, allow_nan=False) + "\n"
        write_atomically(self.result, lambda file: file.write(text.encode()))


def damage(path: Path, result: Mapping[str, Any]) -> str:
    """Which file of a done run is not as its result.json says; empty where all are, or nothing is said."""
    recorded = result.get("files")
    for name, told in recorded.items() if isinstance(recorded, Mapping) else ():
        try:
            if name in RECORDED and _print_of(path / name) != told:
                return f"{name} is damaged: it is not as result.json says"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return ""


def _print_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def git_state() -> dict[str, Any]:
    """Commit of the checkout that the package runs from, and whether tracked files differ; nulls outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"sha": None, "dirty": None}


def package_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def hardware(gpu: str | None, threads: int) -> dict[str, Any]:
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": threads, "gpu": gpu}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
