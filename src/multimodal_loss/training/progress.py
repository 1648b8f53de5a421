"""Progress of a run on the terminal: one live line, or plain lines where nobody watches."""

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from multimodal_loss.command import JOB

PLAIN_LINE_SECONDS = 30.0
LIVE_LINE_SECONDS = 0.2


class Progress:
    """Job of the sweep, replicate, epoch, mean loss, epochs a second, elapsed time and at most how much is left, on
    standard error. `replicates` is how many the run has, `most` the epochs that none of them passes; 0 where unknown.
    """

    def __init__(self, name: str, enabled: bool = True, replicates: int = 0, most: int = 0) -> None:
        self._replicates, self._most, self._which = replicates, most, ""
        name = f"{os.environ[JOB]}  {name}" if JOB in os.environ else name
        self._name, self._enabled = name, enabled and sys.stderr is not None
        self._console = Console(file=sys.stderr)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )
        self._last = time.monotonic()
        self._group: frozenset[int] = frozenset()  # whose epochs are counted, from `_since` on
        self._since = 0, self._last
        self._line = ""

    def __enter__(self) -> Self:
        if self._enabled and self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._enabled:
            return
        with contextlib.suppress(OSError):  # nobody reads it any more: no reason to stop training
            if self._live is not None:
                self._live.stop()
            if self._line:
                self._console.print(Text(self._line), soft_wrap=True)

    def begin(self, ended: int, count: int) -> None:
        """So many replicates begin together, after `ended` ones."""
        of = f"of {self._replicates}"
        several = f"replicates {ended + 1} to {ended + count} {of}" if count > 1 else f"replicate {ended + 1} {of}"
        self._which = f"{several}  " if self._replicates > count else ""

    def epoch(
        self, epoch: int, losses: dict[int, float], seconds: float, monitored: dict[int, float] | None = None
    ) -> None:
        now = time.monotonic()
        if not self._group.issuperset(losses):  # the first of a group: no time is known for this epoch alone
            self._group, self._since = frozenset(losses), (epoch, now)
        if not self._enabled:
            return
        first, start = self._since
        rate = (epoch - first) / (now - start) if epoch > first and now > start else 0.0
        speed = f"{rate:.1f} epochs/s  " if rate else ""
        # Early stopping may come at any time: what can be known is when the last epoch would be.
        left = f", at most {_minutes((self._most - epoch) / rate)} left" if rate and self._most > epoch else ""
        of = f" of at most {self._most:,}" if self._most else ""
        self._line = (
            f"{self._name}  {self._which}epoch {epoch:,}{of}  loss {sum(losses.values()) / len(losses):.5f}  "
            f"running {len(losses)}  {speed}{_minutes(seconds)}{left}"
        )
        interval = LIVE_LINE_SECONDS if self._live is not None else PLAIN_LINE_SECONDS
        if time.monotonic() - self._last < interval:
            return
        self._last = time.monotonic()
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.update(Text(self._line, no_wrap=True, overflow="ellipsis"), refresh=True)
            else:
                self._console.print(Text(self._line), soft_wrap=True)


def _minutes(seconds: float) -> str:
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes}:{int(seconds % 60):02d} min"
