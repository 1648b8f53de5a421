"""Who else is told of a run. The run directory is the record; a tracker only shows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Told of a run's epochs, its end and its failure. `close` is always called last."""

    def epoch(self, epoch: int, losses: dict[int, float], seconds: float) -> None: ...

    def finish(self, result: Mapping[str, Any], predictions: Mapping[int, Mapping[str, Any]]) -> None: ...

    def fail(self, message: str) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """tracker=none."""

    def epoch(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        pass

    def finish(self, result: Mapping[str, Any], predictions: Mapping[int, Mapping[str, Any]]) -> None:
        pass

    def fail(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


def make_tracker(config: dict[str, Any], run_path: Path) -> Tracker:
    """The tracker that the resolved config names."""
    return NoTracker()
