"""The processes of a run as torchrun starts them, and what each tells the others. One process is the case of one rank.

Owns joining and leaving, splitting work, and messages about the run. What a head's sum over classes needs is in
`facemargin.partitions.collectives`; how a backbone's gradients are averaged is DistributedDataParallel's.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from facemargin.errors import ConfigError, FacemarginError
from facemargin.partitions.collectives import gather_batch, gather_numbers, gather_rows, world
from facemargin.partitions.sharded import shard_range

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for a message of the others: as long as the slowest may take to read a set of pictures."""

_CPU = torch.device("cpu")
_LOST = ("gloo", "nccl")  # in messages of RuntimeErrors that are no DistError: gloo's own

Result = TypeVar("Result")


class OtherRankError(FacemarginError):
    """Another process of the run failed, or is gone; this one is in order."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. Every method but `part` is a collective call: all ranks make it.

    Attributes:
        rank, size: place among the processes, and their number.
        local_rank, local_size: the same on this machine.
        restarts: times that torchrun has started these processes anew after one of them failed.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints, and writes what is written once."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This rank's share of some things in order; shares differ by at most one, the larger ones first.

        >>> [Ranks(rank, 3).part(8) for rank in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
        """
        return slice(*shard_range(count, self.rank, self.size))

    def gather_numbers(self, *numbers: int) -> list[list[int]]:
        """The integers of each rank, as many on every one."""
        return gather_numbers(numbers, _CPU)

    def gather(self, value: Any) -> list[Any]:
        """What each rank has to say: JSON values of any size.

        >>> Ranks().gather({"a": 1})
        [{'a': 1}]
        """
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [size for (size,) in self.gather_numbers(len(text))]
        parts = torch.split(gather_rows(text, sizes), sizes)
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def from_first(self, value: Result) -> Result:
        """The first rank's value, JSON, on all."""
        found: Result = self.gather(value if self.is_first else None)[0]
        return found

    def together(self, work: Callable[[], Result]) -> Result:
        """Do a part of the work on every rank; where one fails, all raise, so that none waits for it.

        Args:
            work: makes no collective calls.

        Raises:
            OtherRankError: it failed on another rank, whose error this one repeats. Its own error is raised as it is.
        """
        error: Exception | None = None
        try:
            result = work()
        except Exception as caught:  # whatever it is, the others must hear of it; it is raised below
            error = caught
        told = self.gather(None if error is None else str(error) or type(error).__name__)
        if error is not None:
            raise error
        for rank, problem in enumerate(told):
            if problem is not None:
                raise OtherRankError(f"rank {rank} of {self.size}: {problem}")
        return result

    def require_same(self, what: str, value: str) -> None:
        """Refuse ranks that do not agree.

        Raises:
            ConfigError: on all of them.
        """
        told = self.gather(value)
        other = next((rank for rank, theirs in enumerate(told) if theirs != told[0]), None)
        if other is not None:
            raise ConfigError(
                f"rank {other} of {self.size} has another {what} than rank 0: all machines need the same command and "
                "the same files under the same paths"
            )

    def sum(self, values: Tensor) -> Tensor:
        """Σ over ranks, without gradient, the same on all of them to the last bit."""
        total = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def all_rows(self, rows: Tensor, count: int) -> Tensor:
        """`count` rows of which each rank has its `part`, without gradient."""
        spans = (shard_range(count, rank, self.size) for rank in range(self.size))
        return gather_rows(rows, [stop - start for start, stop in spans])

    def whole_batch(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of all ranks in the order of ranks, of which each rank may have any number.

        The gradient that a rank's own embeddings get back is R times the one that arrives, so that after
        DistributedDataParallel has divided the backbone's by R it is the gradient of the loss of the whole batch.
        """
        rows, sizes = gather_batch(embeddings, factor=self.size)
        return rows, gather_rows(labels, sizes)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first rank."""
        if self.size > 1:
            for tensor in tensors:
                plain = tensor.detach().contiguous()  # whatever the layout, which a message cannot have
                dist.broadcast(plain, 0)
                tensor.detach().copy_(plain)

    def averaging(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A network whose gradients are averaged over the ranks; the network itself where there is one rank.

        Its buckets keep the layout of their first step (what ``find_unused_parameters`` brings with it): a resumed run
        adds up in the same order as one that was never stopped. So parts may also be frozen and freed between steps.
        """
        if self.size == 1:
            return network
        place = [device] if device.type == "cuda" else None
        return DistributedDataParallel(_WithSpare(network, device), device_ids=place, find_unused_parameters=True)


class _WithSpare(nn.Module):
    """A network, and a parameter that it does not use: where DDP looks for such and finds none, every rank warns."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.spare = network, nn.Parameter(torch.zeros((), device=device))

    def forward(self, crops: Tensor) -> Tensor:
        embeddings: Tensor = self.network(crops)
        return embeddings


ALONE = Ranks()
"""A run of one process."""

_TOLD = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "0"}
"""What torchrun tells, in the order of the fields of `Ranks`, with what is meant where one is missing."""


def averages_after(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Around forward and backward of one of a step's parts: gradients go to the other ranks with the last alone."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    held: AbstractContextManager[None] = network.no_sync()
    return held


def launched() -> Ranks:
    """What torchrun's environment says of this process; one rank where there is none.

    Raises:
        ConfigError: what it says cannot be, such as a rank without others to meet: a variable left over from elsewhere.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    told = {name: os.environ.get(name, default) for name, default in _TOLD.items()}
    try:
        ranks = Ranks(*map(int, told.values()))
    except ValueError:
        ranks = Ranks(size=0)
    places = ((ranks.rank, ranks.size), (ranks.local_rank, ranks.local_size))
    met = ranks.size == 1 or {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if not met or any(not 0 <= place < count for place, count in places):
        named = ", ".join(f"{name}={value}" for name, value in told.items())
        raise ConfigError(
            f"the environment says {named}, {'with' if met else 'without'} MASTER_ADDR and MASTER_PORT, which torchrun "
            "would not: start with torchrun, or unset WORLD_SIZE"
        )
    return ranks


def refuse_several_processes(command: str) -> None:
    """For commands that work in one process.

    Raises:
        ConfigError: torchrun has started several.
    """
    if launched().size > 1:
        raise ConfigError(f"`facemargin {command}` works in one process: start it without torchrun")


@contextmanager
def joined(*, on_gpu: bool) -> Iterator[Ranks]:
    """The ranks of this run, connected until the context ends; those of an open process group where there is one.

    Args:
        on_gpu: whether tensors are exchanged by nccl; messages about the run always go by gloo.

    Raises:
        OtherRankError: a rank is gone, whichever message the others were waiting for.
    """
    ranks = launched()
    if dist.is_available() and dist.is_initialized():
        rank, size = world()
        yield Ranks(rank, size, ranks.local_rank, ranks.local_size, ranks.restarts)
        return
    if ranks.size == 1:
        yield ranks
        return
    try:
        _connect(ranks, on_gpu=on_gpu)
        yield ranks
    except RuntimeError as error:
        # No leaving in order here: with a rank gone, nccl may wait for it.
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in _LOST):
            raise
        raise OtherRankError(
            "another process of this run has ended or cannot be reached, and its own output says why; `--resume`, or "
            "torchrun's --max-restarts, goes on from the last checkpoint"
        ) from error
    except FacemarginError:
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()


def _connect(ranks: Ranks, *, on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    # torchrun keeps its store when it starts the ranks anew: without names of their own, some would find the addresses
    # of processes that are gone.
    own = dist.PrefixStore(f"facemargin/{ranks.restarts}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=PATIENCE)
