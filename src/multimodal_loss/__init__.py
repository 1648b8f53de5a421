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

    __version__: str

__all__ = fusion.__all__  # not load_run: `import *` takes torch alone


def __getattr__(name: str) -> object:
    """What takes time, or more than torch, when it is asked for: the version, and `load_run`."""
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("multimodal-loss")
        except metadata.PackageNotFoundError:  # run from a checkout that was not installed
            return "0+unknown"
    if name == "load_run":
        from multimodal_loss.prediction import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
