"""What the commands share: how they end, by what exit code, and that they say so in one line."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from multimodal_loss.errors import TrainingError, UserError, say
from multimodal_loss.files import WriteError

# Jobs of a sweep may run in other processes, and on other machines: each writes how it ended to a file of its own whose
# name begins as this variable says, in the output folder, which they share.
FAILURES = "MULTIMODAL_LOSS_FAILURES"
# Which job of a sweep this process is at, in words, and how many jobs the sweep has.
JOB, JOBS = "MULTIMODAL_LOSS_JOB", "MULTIMODAL_LOSS_JOBS"


class Interrupted(BaseException):
    """A signal asked to stop: in the middle of training a checkpoint has been written."""

    def __init__(self, signal_number: int, reason: str = "") -> None:
        by = f"{signal.Signals(signal_number).name}{reason and f' ({reason})'}"
        super().__init__(f"stopped by {by}; start the same command again to continue")
        self.signal_number = signal_number


def run_command(body: Callable[[], int]) -> int:
    """The exit code of `body`, or of what it raises: 1 where it failed (training, or a file that cannot be written), 2
    for what the user can mend, 128 + n by signal n. What it printed is written out, or the code is not 0.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # where the locale knows too few letters
    try:
        stop_on_signals()
        code = body()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (UserError, Interrupted) as error:
        return complain(error)
    except BrokenPipeError:  # whoever read has enough
        _write_nothing_more()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _write_nothing_more()
        return complain(WriteError(f"{error.filename or 'standard output'}: {error.strerror or error}"))


def run_script(folder: Path, body: Callable[[], object]) -> int:
    """The exit code of a script that gets or makes the data in `folder`: 0, 2 for what the user can mend, 130 by
    Ctrl-C. What stopped it is said in one line.
    """
    try:
        body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; start the same command again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def complain(error: BaseException) -> int:
    """Say it, and give the exit code that goes with it."""
    say(f"error: {error}")
    return exit_code(error)


def exit_code(error: BaseException) -> int:
    """1 where it failed, 2 for what the user can mend, 128 + n by signal n."""
    if isinstance(error, Interrupted):
        return 128 + error.signal_number
    ours = any(isinstance(one, (TrainingError, WriteError)) for one in (error, error.__cause__))
    return 1 if ours else 2


def stop_on_signals() -> None:
    """SIGTERM and SIGINT raise Interrupted, unless worker processes are at work: these stop first, and say so."""

    def stop(number: int, _: FrameType | None) -> None:
        pool = sys.modules.get("joblib.externals.loky.reusable_executor")
        if pool is None or pool._executor is None or FAILURES not in os.environ:
            raise Interrupted(number)
        _stop_file().write_text(f"{128 + number}\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def say_begun(module: str) -> None:
    """Something on the screen, where somebody watches, before what takes seconds to import."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None and sys.stderr.isatty():
            print(f"{module}: loading ...", file=sys.stderr, flush=True)


def stop_at_once() -> None:
    """SIGINT ends this process in one line, until `stop_on_signals`: nothing is under way yet."""

    def stop(number: int, _: FrameType | None) -> None:
        say(f"error: {Interrupted(number)}")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)


def asked_to_stop() -> bool:
    """Whether this is a worker process of a sweep whose parent was stopped, or is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and (is_orphan() or (FAILURES in os.environ and _stop_file().exists()))


def stop_if_asked() -> None:
    """Raise Interrupted in the parent of workers where a signal has asked to stop."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        raise Interrupted(int(_stop_file().read_text()) - 128)


def is_orphan() -> bool:
    """Whether this is a worker process whose parent is gone: nobody waits for it, or ends it."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()


def _stop_file() -> Path:
    return Path(f"{os.environ[FAILURES]}-stop")


def _write_nothing_more() -> None:
    """What is still in the buffer cannot be written: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
