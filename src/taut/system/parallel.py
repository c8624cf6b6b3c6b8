r"""Several processes, one run: everything about *ranks*. With one process it has no effect.

``torchrun`` starts the processes and numbers them in their environment; ``ranks()`` joins them. All
run the same program on the same data with the same seeds, and differ in three places only:

* *Training.* A step has the rows that it has in one process, and each rank a share of them
  (``share``). The loss is the sum over a rank's own rows divided by the number of all rows, so that
  the gradients, summed over the ranks, are those of one process. Every rank draws the noise of a
  step for all rows and keeps that of its own (``Share.noise``): the numbers do not depend on how
  many ranks there are.
* *Evaluation.* The ranks compute blocks of data in turn, and every rank gets all results in their
  order (``in_order``). A block has its own stream of randomness, so the results are those of one
  process to the bit.
* *Files.* The first rank writes and prints (``on_main``).

Objects travel between the ranks by torch's own collectives; if a rank is lost, the others end with
an error at once.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import islice, pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from taut.system.errors import ParallelError, UsageError
from taut.system.launch import is_launched, launched, restarts
from taut.system.noise import SharedNoise

__all__ = [
    "Share",
    "agreed",
    "check_divisible",
    "check_same",
    "claim",
    "divided",
    "in_order",
    "indivisible",
    "is_launched",
    "launched",
    "lost",
    "main",
    "on_main",
    "rank",
    "ranks",
    "restarts",
    "share",
    "shares",
    "sum_over_ranks",
    "telling",
    "world",
    "wrapped",
]

MINUTES = 30  # to wait for a rank whose machine is gone; the death of a process is noticed at once
# Words in torch's errors that mean a lost rank.
LOST = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe")
T = TypeVar("T")
R = TypeVar("R")


class _Group(NamedTuple):
    rank: int
    world: int


_group = _Group(0, 1)
_told: Callable[[int | None], None] | None = None
_store: Any = None  # kept when the group is gone: an error may still have to be claimed


def rank() -> int:
    """Returns the number of this process, from 0."""
    return _group.rank


def world() -> int:
    """Returns the number of processes."""
    return _group.world


def main() -> bool:
    """Returns whether this is the process that writes and prints."""
    return _group.rank == 0


@contextmanager
def ranks(minutes: float = MINUTES) -> Iterator[None]:
    """Joins the processes that torchrun started, for a block; has no effect if there is only one.

    Each process gets the accelerator of its number on its machine. They communicate by NCCL if
    there is one accelerator for each, else by gloo.

    Args:
        minutes: Time that a rank waits for another that neither answers nor hangs up.

    Raises:
        ParallelError: the processes cannot find each other.
    """
    global _group, _store
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or world() > 1:
        yield
        return
    import torch.distributed as dist

    own, timeout = launched(), timedelta(minutes=minutes)
    backend = "gloo"
    if int(os.environ.get("LOCAL_WORLD_SIZE", str(size))) <= torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun hosts the store itself, and it survives a restart
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        server = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, size, not hosted and own == 0, timeout, wait_for_workers=False
        )
        # Under the names of the dead processes gloo would find their addresses, and try to reach
        # them.
        _store = dist.PrefixStore(f"taut/{restarts()}", server)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=_store, rank=own, world_size=size, timeout=timeout)
    except KeyError as error:
        raise ParallelError(
            f"{size} processes, but {error} is not set: start them with torchrun"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise ParallelError(
            f"process {own} of {size} cannot reach the others: {_line(error)}"
        ) from error
    _group = _Group(own, size)
    try:
        yield
    finally:
        _group = _Group(0, 1)
        # DDP sits in reference cycles and would keep gloo's threads, which must end before the
        # interpreter does.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def telling(tell: Callable[[int | None], None]) -> Iterator[None]:
    """Has a function told of each task that ``in_order`` has done, and how many there are in all.

    It is told nothing of tasks within tasks, nor of those of several processes.
    """
    global _told
    before, _told = _told, tell
    try:
        yield
    finally:
        _told = before


def in_order(tasks: Iterable[T], compute: Callable[[T], R]) -> Iterator[R]:
    """Yields the results of tasks in their order; the ranks compute them in turn, and each rank
    gets all.

    An error of a task is raised on every rank. Within a task the process is alone, so a task may
    itself call ``in_order``.
    """
    global _told
    tell, total = _told, len(tasks) if isinstance(tasks, Sized) else None
    if world() == 1:
        for task in tasks:
            # within a task nobody is told: its blocks are part of this one
            _told = None
            try:
                own = compute(task)
            finally:
                _told = tell
            if tell is not None:
                tell(total)
            yield own
        return
    upcoming = iter(tasks)
    while now := list(islice(upcoming, world())):
        result: Any = None
        if rank() < len(now):
            task = now[rank()]
            try:
                with _alone():
                    result = compute(task)
            except Exception as error:
                result = _Raised(error)
        for each in _gather(result)[: len(now)]:
            if isinstance(each, _Raised):
                raise each.error
            yield each


def on_main(function: Callable[[], R]) -> R:
    """Returns the result of a function that the first rank alone calls; its error is raised on
    every rank.
    """
    if world() == 1:
        return function()
    result: Any = None
    if main():
        try:
            with _alone():
                result = function()
        except Exception as error:
            result = _Raised(error)
    result = _gather(result)[0]
    if isinstance(result, _Raised):
        raise result.error
    return result


def agreed(flag: bool) -> bool:
    """Returns whether the flag is set on any rank, so that all decide alike about clocks and
    signals.
    """
    return flag if world() == 1 else any(_gather(flag))


def check_same(tensors: Mapping[str, Tensor], when: str) -> None:
    """Compares a hash of tensors across the ranks.

    Raises:
        ParallelError: they differ.
    """
    if world() == 1:
        return
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    digests = _gather(digest.hexdigest())
    other = [number for number, each in enumerate(digests) if each != digests[0]]
    if other:
        raise ParallelError(
            f"the weights of process {other[0]} are not those of process 0 {when}: give every "
            f"machine the same versions of taut and torch and the same run folder, and go on with "
            f"`taut resume`"
        )


class Share(NamedTuple):
    """The rows of a step that belong to this rank: ``first`` to ``first + rows`` of ``total``.

    If there are fewer rows than ranks, a rank without a row takes the first one with ``weight`` 0.
    """

    first: int
    rows: int
    total: int
    weight: float

    def of(self, rows: Tensor) -> Tensor:
        """Returns the rows of this rank, along the first axis."""
        return rows[self.first : self.first + self.rows]

    def mean(self, values: Tensor) -> Tensor:
        """Returns this rank's part of the mean over all rows, to which the parts of all ranks add
        up.
        """
        return values.sum() * (self.weight / self.total)

    def noise(self, num_samples: int = 1) -> AbstractContextManager[object]:
        """Returns a mode in which noise is drawn for the rows of all ranks, and this rank's rows of
        it are kept.

        Args:
            num_samples: K of tensors (K, B, ...); others are taken to be (B, ...).
        """
        if self.rows == self.total:
            return nullcontext()
        return SharedNoise(self.first, self.rows, self.total, num_samples, rank(), world())


def share(total: int) -> Share:
    """Returns this rank's share of the rows of a step."""
    return shares(total, world())[rank()]


def divided(total: int) -> Share | None:
    """Returns this rank's share of the rows of a step, or None if there is one process."""
    return share(total) if world() > 1 else None


def shares(total: int, count: int) -> list[Share]:
    """Returns the rows of a step in ``count`` shares."""
    ends = [number * total // count for number in range(count + 1)]
    spare = Share(0, 1, total, 0.0)
    return [Share(a, b - a, total, 1.0) if b > a else spare for a, b in pairwise(ends)]


def check_divisible(model: nn.Module, objective: Any) -> None:
    """Refuses models and objectives that couple the rows of a step, of which each rank has a part.

    Raises:
        UsageError: the objective is of the whole batch, or the model has batch normalisation.
    """
    if world() > 1 and (reason := indivisible(model, objective)):
        raise UsageError(f"{reason}, but each process holds a part of it: train in one process")


def indivisible(model: nn.Module, objective: Any) -> str:
    """Returns, as a clause, the part of model or objective that couples the rows of a step; empty
    if each row can be computed alone.
    """
    if objective.couples_rows:
        return str(objective.couples_rows)
    for name, part in model.named_modules():
        # Among processes SyncBatchNorm does see the whole.
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (
            world() == 1 or not isinstance(part, nn.SyncBatchNorm)
        ):
            return f"{name} is a {type(part).__name__}, which averages over the whole batch"
    return ""


def wrapped(module: nn.Module) -> Callable[..., Any]:
    """Returns a module whose parameters get the *mean* of the gradients over the ranks; for the
    sum, multiply the loss.

    Call the returned module: gradients of a call of the inner one are not averaged.
    """
    from torch.nn.parallel import DistributedDataParallel

    whole = _WithSpare(module)
    # Buffers are the same on all ranks; check_same watches that they stay so.
    whole._ddp_params_and_buffers_to_ignore = [name for name, _ in whole.named_buffers()]  # type: ignore[assignment]
    return DistributedDataParallel(whole, find_unused_parameters=True, gradient_as_bucket_view=True)


class _WithSpare(nn.Module):
    """A module and a parameter that nothing uses.

    DDP complains where it was told to look for such parameters and finds none.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.spare = nn.Parameter(torch.zeros(1, device=next(module.parameters()).device))

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


def sum_over_ranks(values: Tensor) -> Callable[[], Tensor]:
    """Begins to add up values over the ranks.

    Returns:
        A function that waits for the sum and returns it, in the same tensor.
    """
    import torch.distributed as dist

    work = dist.all_reduce(values, async_op=True)

    def wait() -> Tensor:
        if work is not None:
            work.wait()
        return values

    return wait


def lost(error: BaseException | None) -> bool:
    """Returns whether an error, or the one during which it arose, says that a rank is lost."""
    if error is None or world() == 1:
        return False
    says_so = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)
    return says_so or lost(error.__context__)


def claim(code: int) -> tuple[bool, int]:
    """Returns whether this rank failed first, and so prints the error, and the exit code of all."""
    if world() == 1 or _store is None:
        return main(), code
    try:
        if _store.add("failed", 1) == 1:
            _store.set("code", str(code))
            return True, code
        return False, int(_store.get("code"))
    except RuntimeError:  # the store is gone, and with it the rank that may have failed first
        return True, code


class _Raised:
    """An error on its way to the other ranks."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def _alone() -> Iterator[None]:
    """Makes this the only process for a block, so that nothing in it waits for the others."""
    global _group
    before, _group = _group, _Group(0, 1)
    try:
        yield
    finally:
        _group = before


def _gather(value: Any) -> list[Any]:
    import torch.distributed as dist

    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
