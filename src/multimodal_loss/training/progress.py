"""Progress of a run on the terminal: one live line, or plain lines where nobody watches."""

import contextlib
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_LINE_SECONDS = 30.0
LIVE_LINE_SECONDS = 0.2


class Progress:
    """Epoch, mean loss, replicates still running, epochs a second and elapsed time, on standard error."""

    def __init__(self, name: str, enabled: bool = True) -> None:
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

    def epoch(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        now = time.monotonic()
        if not self._group.issuperset(losses):  # the first of a group: no time is known for this epoch alone
            self._group, self._since = frozenset(losses), (epoch, now)
        if not self._enabled:
            return
        first, start = self._since
        speed = f"{(epoch - first) / (now - start):.1f} epochs/s  " if epoch > first and now > start else ""
        self._line = (
            f"{self._name}  epoch {epoch:,}  loss {sum(losses.values()) / len(losses):.5f}  running {len(losses)}  "
            f"{speed}{int(seconds // 60)}:{int(seconds % 60):02d} min"
        )
        interval = LIVE_LINE_SECONDS if self._live is not None else PLAIN_LINE_SECONDS
        if time.monotonic() - self._last < interval:
            return
        self._last = time.monotonic()
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.update(Text(self._line), refresh=True)
            else:
                self._console.print(Text(self._line), soft_wrap=True)
