"""Who else is told of a run. The run directory is the record; a tracker only shows it.

Training never depends on a tracker: `make_tracker` wraps it so that its failure is one warning line. What the user can
mend before training starts (a package that is not installed) is a UserError.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multimodal_loss.errors import UserError


class Tracker:
    """Told of a run's epochs, its end and its failure. `close` is always called last. This one, tracker=none, does
    nothing of it.
    """

    def epoch(
        self, epoch: int, losses: dict[int, float], seconds: float, monitored: dict[int, float] | None = None
    ) -> None:
        """Losses by replicate id of the replicates that still train; `seconds` of training so far; the value of
        trainer.monitor, where it is set.
        """

    def finish(self, result: Mapping[str, Any], predictions: Mapping[int, Mapping[str, Any]]) -> None:
        """The run is done: result.json's content, and the test predictions by replicate id."""

    def fail(self, message: str) -> None:
        """The run failed, in one line."""

    def close(self) -> None:
        """Nothing more comes. Without `finish` before it the run failed or was stopped."""


class Guarded(Tracker):
    """Keeps a tracker's failure away from training: one warning line, then the tracker hears of nothing but its end.

    `start` makes the tracker; it may fail too.
    """

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name, self._failed, self._tracker = name, False, Tracker()
        with self._guarded():
            self._tracker = start()

    def epoch(
        self, epoch: int, losses: dict[int, float], seconds: float, monitored: dict[int, float] | None = None
    ) -> None:
        self._tell("epoch", epoch, losses, seconds, monitored)

    def finish(self, result: Mapping[str, Any], predictions: Mapping[int, Mapping[str, Any]]) -> None:
        self._tell("finish", result, predictions)

    def fail(self, message: str) -> None:
        self._tell("fail", message)

    def close(self) -> None:
        with self._guarded():  # also after a failure, so that nothing stays open
            self._tracker.close()

    def _tell(self, event: str, *what: Any) -> None:
        if not self._failed:
            with self._guarded():
                getattr(self._tracker, event)(*what)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker raises: training does not need it
            if not self._failed:  # a second failure is not news
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                line = f"warning: tracker={self._name} failed, the run goes on without it ({reason})"
                print(line, file=sys.stderr, flush=True)
            self._failed = True


def make_tracker(config: dict[str, Any], numbers: Sequence[int], run_path: Path) -> Tracker:
    """The tracker that the resolved config names, for the replicates of the run in `run_path`.

    Raises UserError for a package that is not installed.
    """
    options = config["tracker"]
    if options["name"] == "none":
        return Tracker()
    check_wandb()

    def start() -> Tracker:
        # Only here: training without a tracker imports neither wandb nor matplotlib.
        from multimodal_loss.trackers.wandb_tracker import WandbTracker

        return WandbTracker(config, numbers, run_path)

    return Guarded("wandb", start)


def check_wandb() -> None:
    """Raises UserError unless wandb is installed."""
    found = importlib.util.find_spec("wandb")
    # A folder `wandb` of offline runs in the working directory passes for a package, one without a file of its own.
    if found is None or found.origin is None:
        raise UserError("tracker=wandb needs the package wandb: pip install 'multimodal-loss[experiments]'")
