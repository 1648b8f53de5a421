"""Progress of a run on the terminal: one live line, or plain lines where nobody watches."""

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
        self._name, self._enabled = name, enabled
        self._console = Console(file=sys.stderr)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )
        self._last = self._first = time.monotonic()
        self._first_epoch: int | None = None
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
        if self._live is not None:
            self._live.stop()
        if self._line:
            self._console.print(Text(self._line), soft_wrap=True)

    def epoch(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        if self._first_epoch is None:
            self._first_epoch = epoch - 1
        passed = time.monotonic() - self._first
        speed = (epoch - self._first_epoch) / passed if passed > 0 else 0.0
        mean = sum(losses.values()) / len(losses)
        if not self._enabled:
            return
        self._line = (
            f"{self._name}  epoch {epoch:,}  loss {mean:.5f}  running {len(losses)}  {speed:.1f} epochs/s  "
            f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
        )
        interval = LIVE_LINE_SECONDS if self._live is not None else PLAIN_LINE_SECONDS
        if time.monotonic() - self._last < interval:
            return
        self._last = time.monotonic()
        if self._live is not None:
            self._live.update(Text(self._line), refresh=True)
        else:
            self._console.print(Text(self._line), soft_wrap=True)
