"""Batches of splits in memory and of splits whose samples are decoded: the same, whoever decodes, and after a kill."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import ROOT
from multimodal_loss.datasets import Batch, DecodingSplit, Draws, Split
from multimodal_loss.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clips(DecodingSplit):
    """Sample n is made of n; augmentation adds noise. The sample `damaged` cannot be decoded."""

    target: Tensor
    damaged: int | None = None

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((2, 3), (4,))

    def sample(self, position: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        if position == self.damaged:
            raise UserError(f"clip {position}: cannot be decoded; get the file again")
        noise = torch.zeros(4) if generator is None else torch.rand(4, generator=generator)
        return torch.full((2, 3), float(position)), position + noise


def clips(damaged: int | None = None) -> Clips:
    return Clips(torch.arange(7) % 3, damaged)


def in_memory() -> Split:
    return Split((torch.arange(14.0).view(7, 2), torch.arange(7.0)), torch.arange(7) % 3)


def same(a: list[Batch], b: list[Batch]) -> bool:
    pairs = [(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left.inputs, right.inputs, strict=True)]
    pairs += [(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left[1:], right[1:], strict=True)]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("split", [in_memory(), clips()])
@pytest.mark.parametrize("order", [None, torch.tensor([6, 0, 3, 5, 1])])
def test_batches_follow_the_order_and_the_last_is_what_is_left(split: Split, order: Tensor | None) -> None:
    wanted = list(range(7)) if order is None else order.tolist()
    for size in (2, 7, 100, None):
        batches = list(split.batches(order, size, CPU))
        assert [len(b.target) for b in batches] == [
            len(wanted[i : i + (size or 7)]) for i in range(0, len(wanted), size or 7)
        ]
        assert torch.cat([b.index for b in batches]).tolist() == wanted
        assert torch.equal(torch.cat([b.target for b in batches]), split.target[wanted])
        for m, x in enumerate(split.rows(torch.tensor(wanted))):
            assert torch.equal(torch.cat([b.inputs[m] for b in batches]), x)
            assert x.shape[1:] == split.feature_shapes[m]
    assert list(split.batches(torch.tensor([], dtype=torch.long), 2, CPU)) == []


def test_batches_in_memory_are_views_where_no_order_is_asked_for() -> None:
    split = in_memory()
    (batch,) = split.batches(None, None, CPU)
    assert batch.inputs[0].data_ptr() == split.inputs[0].data_ptr()


def test_batches_come_on_the_device_asked_for() -> None:
    for split in (in_memory(), clips()):
        batch = next(split.batches(torch.tensor([3, 1]), 2, torch.device("meta")))
        assert {x.device.type for x in (*batch.inputs, batch.target)} == {"meta"}


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    def number(seed: int, epoch: int, sample: int) -> float:
        return torch.rand((), generator=Draws(seed, epoch).generator(sample)).item()

    keys = [(s, e, n) for s in (0, 1, 12) for e in (0, 1, 11) for n in (0, 1, 2, 21)]
    assert len({number(*key) for key in keys}) == len(keys)
    assert number(12, 1, 21) == number(12, 1, 21) == pytest.approx(GOLDEN)


GOLDEN = 0.5643070936203003


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_same_for_any_number_of_workers_and_wherever_it_goes_on(workers: int) -> None:
    split, order, draws = clips(), torch.tensor([6, 0, 3, 5, 1, 2, 4]), Draws(seed=1, epoch=2)
    torch.manual_seed(0)
    whole = list(split.batches(order, 2, CPU, draws))
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert same(list(split.batches(order, 2, CPU, draws, workers)), whole)
    assert same(list(split.batches(order[4:], 2, CPU, draws, workers)), whole[2:])
    assert torch.equal(torch.rand(3), drawn)  # what the network draws does not depend on it
    # A sample's augmentation is its own: not of its place in the order, another in the next epoch.
    by_sample = {int(i): x for b in whole for i, x in zip(b.index, b.inputs[1], strict=True)}
    (again,) = split.batches(None, None, CPU, draws, workers)
    assert torch.equal(again.inputs[1], torch.stack([by_sample[i] for i in range(7)]))
    (later,) = split.batches(None, None, CPU, Draws(1, 3), workers)
    assert not (later.inputs[1] == again.inputs[1]).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_decoded_is_one_line_when_its_batch_comes(workers: int) -> None:
    batches = clips(damaged=4).batches(None, 2, CPU, workers=workers)
    assert [b.index.tolist() for b in (next(batches), next(batches))] == [[0, 1], [2, 3]]
    with pytest.raises(UserError) as error:
        next(batches)
    assert str(error.value) == "clip 4: cannot be decoded; get the file again"


EPOCH = """
import multiprocessing, os, sys, time
import torch
from test_splits import CPU, Clips
batches = Clips(torch.zeros(100)).batches(None, 1, CPU, workers=2)
next(batches), next(batches)  # one of each worker: both have begun
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
{then}
"""


def start_epoch(then: str) -> "subprocess.Popen[str]":
    """A process that begins an epoch with two workers and prints their ids."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-c", EPOCH.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout is not None
    return [int(pid) for pid in process.stdout.readline().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes run")
def test_workers_leave_signals_to_the_parent_and_do_not_outlive_it() -> None:
    killed, ended = start_epoch("time.sleep(60)"), start_epoch("sys.exit(3)")
    workers, others = workers_of(killed), workers_of(ended)
    assert len(workers) == len(others) == 2
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in workers:
            os.kill(pid, number)
    # One that ends in the middle of the epoch does not wait for workers that nobody ends.
    assert ended.communicate(timeout=20)[1] == "" and ended.returncode == 3 and not any(map(alive, others))
    assert all(map(alive, workers))
    killed.kill()
    assert killed.communicate(timeout=20)[1] == ""
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))
