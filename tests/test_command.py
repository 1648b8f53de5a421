"""How commands end, and what stands on the disk after they were killed or found it full."""

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from multimodal_loss import command, train
from multimodal_loss.command import Interrupted, run_command
from multimodal_loss.datasets.cache import cached
from multimodal_loss.errors import MissingData, TrainingError, UserError
from multimodal_loss.files import WriteError, remove_leftovers, temporary_folder, write_atomically
from multimodal_loss.training.progress import Progress
from multimodal_loss.training.run import FailedRun


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[], int]:
    def body() -> int:
        raise error from cause

    return body


def killing(number: signal.Signals) -> Callable[[], int]:
    def body() -> int:
        os.kill(os.getpid(), number)
        return 0

    return body


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> object:
    """The test process keeps its signals and its standard output."""
    monkeypatch.setattr(command, "_write_nothing_more", lambda: None)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_workers_that_a_ctrl_c_ended_while_they_began_were_not_short_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The parent has noted that it was asked to stop; of the pool it hears only that it broke."""

    def sweep(stopped: bool) -> None:
        monkeypatch.setenv(command.FAILURES, str(tmp_path / "failure"))
        if stopped:
            (tmp_path / "failure-stop").write_text("130\n")
        raise BrokenProcessPool

    monkeypatch.setattr(train, "_hydra_main", lambda: sweep(stopped=False))
    with pytest.raises(TrainingError, match="a worker of the sweep was killed"):
        train._train()
    monkeypatch.setattr(train, "_hydra_main", lambda: sweep(stopped=True))
    with pytest.raises(Interrupted, match="stopped by SIGINT; start the same command again"):
        train._train()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (lambda: 3, 3, ""),
        (raising(UserError("a\nb")), 2, "error: a b"),
        (raising(MissingData("no data")), 2, "error: no data"),
        (raising(TrainingError("nan")), 1, "error: nan"),
        (raising(WriteError("full")), 1, "error: full"),
        (raising(FailedRun("full"), WriteError("full")), 1, "error: full"),
        (raising(FailedRun("lr"), UserError("lr")), 2, "error: lr"),
        (raising(PermissionError(errno.EACCES, "Permission denied", "/data")), 1, "error: /data: Permission denied"),
        (
            raising(OSError(errno.ENOSPC, "No space left on device")),
            1,
            "error: standard output: No space left on device",
        ),
        (raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), 141, ""),
        (raising(Interrupted(signal.SIGTERM)), 143, "error: stopped by SIGTERM"),
        (killing(signal.SIGTERM), 143, "error: stopped by SIGTERM"),
        (killing(signal.SIGINT), 130, "error: stopped by SIGINT"),
        (raising(UserError("\x1b[2J \udcff ü")), 2, "error: \\x1b[2J \\udcff ü"),
    ],
)
def test_every_end_has_its_code_and_one_line(
    body: Callable[[], int], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(body) == code
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == bool(said)


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = write  # type: ignore[assignment]


@pytest.mark.parametrize("stream", [None, Full(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")])
def test_outputs_that_are_closed_full_or_know_few_letters(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert run_command(raising(UserError("Müller"))) == 2
    with Progress("Müller") as progress:
        progress.epoch(1, {0: 0.5}, 1.0)
    monkeypatch.setattr(sys, "stdout", stream)

    def body() -> int:
        print("Müller")
        return 0

    assert run_command(body) == (1 if isinstance(stream, Full) else 0)


@pytest.mark.parametrize("module", ["train", "report"])
def test_ctrl_c_while_torch_is_imported(tmp_path: Path, module: str) -> None:
    """Which takes seconds, and comes before any code of the command."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(0)")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[1] / "src")])
    started = [sys.executable, "-m", f"multimodal_loss.{module}"]
    ended = subprocess.run(started, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 130
    assert ended.stderr == "error: stopped by SIGINT; start the same command again to continue\n"


LEAVES = """
import os, signal, sys
from pathlib import Path
from multimodal_loss.files import temporary_folder, write_atomically
folder = Path(sys.argv[1])
with temporary_folder(folder / "made") as made:
    (made / "large").write_bytes(b"x" * 1000)
    write_atomically(folder / "file", lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_what_a_killed_process_left_is_removed_and_what_is_held_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    subprocess.run([sys.executable, "-c", LEAVES, str(tmp_path)], env=environment, timeout=120)
    assert len(list(tmp_path.glob(".*"))) == 2
    write_atomically(tmp_path / "file", lambda file: file.write(b"whole"))
    with temporary_folder(tmp_path / "made"):
        assert len(list(tmp_path.glob(".*"))) == 1
        with temporary_folder(tmp_path / "other"):
            assert len(list(tmp_path.glob(".*"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("moment", ["between open and lock", "before it is renamed"])
def test_a_file_that_is_being_written_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another process, which writes the same file, looks for leftovers at the worst moment."""
    module, name = (fcntl, "flock") if moment == "between open and lock" else (os, "replace")
    ordinary = getattr(module, name)

    def interrupted(*arguments: Any) -> None:
        monkeypatch.setattr(module, name, ordinary)
        remove_leftovers(tmp_path, ".file.*.tmp")
        ordinary(*arguments)

    monkeypatch.setattr(module, name, interrupted)
    write_atomically(tmp_path / "file", lambda file: file.write(b"whole"))
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("module", "name"), [(os, "open"), (fcntl, "flock")])
def test_a_folder_that_is_being_built_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """Another process, which builds the same folder, looks for leftovers just before it is opened, or locked."""
    ordinary = getattr(module, name)

    def interrupted(*arguments: Any) -> object:
        monkeypatch.setattr(module, name, ordinary)
        remove_leftovers(tmp_path, ".*.half-built")
        return ordinary(*arguments)

    monkeypatch.setattr(module, name, interrupted)
    with temporary_folder(tmp_path / "made") as made:
        (made / "file").write_bytes(b"whole")
        made.rename(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_bytes() == b"whole"


def test_a_folder_that_cannot_be_locked_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: raising(OSError(errno.ENOLCK, "No locks available"))())
    with pytest.raises(OSError, match="No locks"), temporary_folder(tmp_path / "made"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("1200 requested and 992 written"), WriteError, "cannot write numbers to .*: the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device"), WriteError, "cannot write numbers to .*: No space left"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            WriteError,
            "cannot write numbers to .*: Permission denied",
        ),
    ],
)
def test_a_cache_that_cannot_be_written(tmp_path: Path, error: OSError, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        cached(tmp_path / "cache" / "a", "mark", "numbers", lambda _: raising(error)(), lambda _: None)  # type: ignore[arg-type, func-returns-value]
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "cannot read numbers in .*: Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot read numbers in .*: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "numbers are damaged .*; delete this folder"),
        (ValueError("bad header"), "numbers are damaged .*; delete this folder"),
    ],
)
def test_a_cache_that_cannot_be_read(tmp_path: Path, error: Exception, message: str) -> None:
    (tmp_path / "mark").touch()
    with pytest.raises(UserError, match=message):
        cached(tmp_path, "mark", "numbers", lambda _: None, lambda _: raising(error)())
