"""Working memory for losses computed block by block."""

import math
import threading

import torch
from torch import Tensor

KEPT_BYTES = 2**24  # workspaces up to this size are kept for the next call


class Scratch:
    """Memory for the intermediate arrays of one block, handed out from the front.

    On a CPU it is kept from call to call, one per thread: fresh memory is paged in at first touch, which for a small
    problem can take longer than the loss itself. Accelerators keep freed memory anyway.

    Args:
        like: a tensor of the wanted type and device.
        elements: how many numbers the arrays of a block hold together.
    """

    _of_thread = threading.local()

    def __init__(self, like: Tensor, elements: int) -> None:
        kept: dict[str, Tensor] = self._of_thread.__dict__
        name = str(like.dtype)
        if like.device.type == "cpu" and name in kept and len(kept[name]) >= elements:
            self._memory = kept[name]
        else:
            with torch.inference_mode(False):  # what is kept must serve training, too
                self._memory = torch.empty(elements, dtype=like.dtype, device=like.device)
            if like.device.type == "cpu" and self._memory.nbytes <= KEPT_BYTES:
                kept[name] = self._memory
        self.restart()

    def restart(self) -> None:
        """Make all memory available again: what was taken before is overwritten."""
        self._used = 0

    def take(self, *shape: int) -> Tensor:
        """An uninitialised contiguous array."""
        start, self._used = self._used, self._used + math.prod(shape)
        return self._memory[start : self._used].view(shape)
