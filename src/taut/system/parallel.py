r"""Several processes, one run: everything about *ranks* is here. With one process nothing of it
does anything.

``torchrun`` starts the processes and says in their environment who they are; ``ranks()`` joins
them. All run the same program on the same data with the same seeds, and differ in three places
only:

* *Training.* A step has the rows that it has in one process, and each rank a share of them
  (``share``). The loss is the sum over one's own rows divided by the rows of all, so that the
  gradients, summed over the ranks, are those of one process. The noise of a step is drawn for all
  its rows on every rank, of which each keeps its own (``Share.noise``): the numbers do not depend
  on how many ranks there are.
* *Evaluation.* Blocks of data are computed in turn, a rank each, and every rank gets all results in
  their order (``in_order``). A block has its own stream of randomness, so the results are those of
  one process to the bit.
* *Files.* The first rank writes and prints (``on_main``).

Objects travel between the ranks by torch's own collectives; a rank that is lost ends the others
with an error and no wait.
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
from torch.overrides import TorchFunctionMode

from taut.system.errors import ParallelError, UsageError
from taut.system.launch import is_launched, launched, restarts

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

MINUTES = (
    30  # without a word from a rank whose machine is gone; a process that dies is noticed at once
)
# in what torch says then
LOST = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset",
    "broken pipe",
)
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
    """Joins the processes that torchrun started for a block; does nothing where there is one.

    Each process gets the accelerator of its number on its machine, and talks by NCCL where there is
    one for each, else by gloo.

    Args:
        minutes: How long a rank waits for another that neither answers nor hangs up.

    Fails:
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
        # by torchrun itself, and it survives a restart
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
        # DDP is in cycles, and would keep gloo's threads, which must end before the interpreter
        # does
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
    """Yields the result of each task in the order of the tasks, which the ranks compute in turn;
    each rank gets all of them.

    What a task raises is raised on every rank. Inside of a task there is one process: it may use
    what itself calls this.
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
    """Returns what the first rank gets of a function, which it alone calls.

    What it raises is raised on every rank.
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
    """Returns whether any rank says so: what depends on a clock or a signal is decided alike."""
    return flag if world() == 1 else any(_gather(flag))


def check_same(tensors: Mapping[str, Tensor], when: str) -> None:
    """Compares a hash of tensors across the ranks.

    Fails:
        ParallelError: they differ.
    """
    if world() == 1:
        return
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(
            tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        )
    digests = _gather(digest.hexdigest())
    other = [number for number, each in enumerate(digests) if each != digests[0]]
    if other:
        raise ParallelError(
            f"the weights of process {other[0]} are not those of process 0 {when}: give every "
            f"machine the same versions of taut "
            "and torch and the same run folder, and go on with `taut resume`"
        )


class Share(NamedTuple):
    """The rows of a step that are this rank's: ``first`` to ``first + rows`` of ``total``.

    Where there are fewer rows than ranks, one without a row takes the first and gives it no
    ``weight``.
    """

    first: int
    rows: int
    total: int
    weight: float

    def of(self, rows: Tensor) -> Tensor:
        """Returns what belongs to this rank, along the first axis."""
        return rows[self.first : self.first + self.rows]

    def mean(self, values: Tensor) -> Tensor:
        """Returns this rank's part of the mean over all rows: the parts of all ranks
        add up to it.
        """
        return values.sum() * (self.weight / self.total)

    def noise(self, num_samples: int = 1) -> AbstractContextManager[object]:
        """Returns a mode in which whatever is random is drawn for the rows of all ranks, of which
        this one keeps its own.

        Args:
            num_samples: K of tensors (K, B, ...); others are taken to be (B, ...).
        """
        return nullcontext() if self.rows == self.total else _Noise(self, num_samples)


def share(total: int) -> Share:
    """Returns this rank's share of the rows of a step."""
    return shares(total, world())[rank()]


def divided(total: int) -> Share | None:
    """Returns this rank's share of the rows of a step where there are several processes.

    One takes them all.
    """
    return share(total) if world() > 1 else None


def shares(total: int, count: int) -> list[Share]:
    """Returns the rows of a step in so many shares."""
    ends = [number * total // count for number in range(count + 1)]
    return [
        Share(a, b - a, total, 1.0) if b > a else Share(0, 1, total, 0.0) for a, b in pairwise(ends)
    ]


def check_divisible(model: nn.Module, objective: object) -> None:
    """Refuses what looks at the rows of a step together, of which each rank has a part.

    Fails:
        UsageError: the objective has free bits, or the model has batch normalisation.
    """
    if world() > 1 and (reason := indivisible(model, objective)):
        raise UsageError(f"{reason}, and no process has it: train in one process")


def indivisible(model: nn.Module, objective: object) -> str:
    """Returns what looks at the rows of a step together.

    Nothing where each row can be computed alone.
    """
    if getattr(objective, "free_bits", 0):
        return "free_bits goes by the mean over a whole batch"
    for name, part in model.named_modules():
        # Among processes SyncBatchNorm does see the whole.
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (
            world() == 1 or not isinstance(part, nn.SyncBatchNorm)
        ):
            return f"{name} is a {type(part).__name__}, which goes by the whole batch"
    return ""


def wrapped(module: nn.Module) -> Callable[..., Any]:
    """Returns a module that gives its parameters the *mean* of the gradients over the ranks; for a
    sum, multiply the loss.

    It must be called itself: gradients of a call of the module within are one rank's own.
    """
    from torch.nn.parallel import DistributedDataParallel

    whole = _WithSpare(module)
    # Buffers are the same on all ranks, and check_same sees to it that they stay so.
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

    What is returned waits for the sum, which is in the same tensor.
    """
    import torch.distributed as dist

    work = dist.all_reduce(values, async_op=True)

    def wait() -> Tensor:
        if work is not None:
            work.wait()
        return values

    return wait


def lost(error: BaseException | None) -> bool:
    """Returns whether an error, or the one that it came upon, says that another rank has gone."""
    if error is None or world() == 1:
        return False
    says_so = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)
    return says_so or lost(error.__context__)


def claim(code: int) -> tuple[bool, int]:
    """Returns whether this rank is the first with an error, and so the one to print it, and the
    exit code of all.
    """
    if world() == 1 or _store is None:
        return main(), code
    try:
        if _store.add("failed", 1) == 1:
            _store.set("code", str(code))
            return True, code
        return False, int(_store.get("code"))
    except RuntimeError:  # the store is gone, and with it whoever might have said something
        return True, code


class _Raised:
    """An error on its way to the other ranks."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Noise(TorchFunctionMode):
    """See ``Share.noise``. What is per datum is told by its shape.

    What is not is drawn once for each rank.
    """

    def __init__(self, own: Share, num_samples: int) -> None:
        super().__init__()
        self.own, self.num_samples = own, num_samples

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in RANDOM or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in FILLED:
            return self._drawn(FILLED[func], (torch.empty(*args, **kwargs),), {})
        drawn = self._drawn(func, args, kwargs)
        return args[0].copy_(drawn) if func.__name__.endswith("_") else drawn

    def _drawn(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        axis = self._axis(args[0])
        if axis is None:  # in no other way do the ranks stay in step and have noise of their own
            copies = (
                [a.clone() if isinstance(a, Tensor) else a for a in args] for _ in range(world())
            )
            return [func(*copy, **kwargs) for copy in copies][rank()]
        return func(
            *map(self._whole, args), **{k: self._whole(v) for k, v in kwargs.items()}
        ).narrow(axis, self.own.first, self.own.rows)

    def _whole(self, value: Any) -> Any:
        """Returns a tensor for the rows of all ranks.

        In the places of others stand copies of one's own.
        """
        axis = self._axis(value)
        if axis is None:
            return value
        place = torch.arange(self.own.total, device=value.device) - self.own.first
        return value.index_select(axis, place.clamp_(0, self.own.rows - 1))

    def _axis(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if value.shape[:2] == (self.num_samples, self.own.rows):
            return 1
        return 0 if value.shape[:1] == (self.own.rows,) else None


FILLED: dict[Any, Any] = {torch.rand: Tensor.uniform_, torch.randn: Tensor.normal_}
RANDOM: set[Any] = {
    *FILLED,
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.random_,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.cauchy_,
    Tensor.geometric_,
    Tensor.log_normal_,
    Tensor.bernoulli,
    Tensor.multinomial,
    torch.bernoulli,
    torch.binomial,
    torch.normal,
    torch.multinomial,
    torch.poisson,
    torch.rand_like,
    torch.randn_like,
    torch.randint_like,
    torch._standard_gamma,
    torch._sample_dirichlet,
    torch.dropout,
    nn.functional.dropout,
    nn.functional.alpha_dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.feature_alpha_dropout,
}


@contextmanager
def _alone() -> Iterator[None]:
    """Makes this the only process for a block, for whatever in it would wait for the others."""
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
