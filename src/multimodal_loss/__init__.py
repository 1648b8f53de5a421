"""Multimodal classification with the MultiModal loss of Moon & Lee, and the fusions it is compared with."""

import sys
from typing import TYPE_CHECKING

if _command := next((argument for argument in sys.orig_argv if argument.startswith(f"{__name__}.")), ""):
    # python -m multimodal_loss.train: Ctrl-C while torch is imported, which takes seconds, is no traceback.
    from multimodal_loss.command import say_begun, stop_at_once

    stop_at_once()
    say_begun(_command)

from multimodal_loss import fusion
from multimodal_loss.fusion import *  # noqa: F403

if TYPE_CHECKING:
    from multimodal_loss.prediction import load_run as load_run

__all__ = fusion.__all__  # not load_run: `import *` takes torch alone
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`load_run`, when it is asked for: the losses need torch alone, a trained run all that experiments need."""
    if name != "load_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from multimodal_loss.prediction import load_run

    return load_run
