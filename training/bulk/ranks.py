"""Which of several processes this one is. They share nothing but the output folder, so that torch is not needed."""

from collections.abc import Mapping
from dataclasses import dataclass

from facemargin.errors import ConfigError
from facemargin.onnx_model import available_cores

_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
"""Number and count as torchrun and srun tell them; ``SLURM_NTASKS`` stands also in a script that srun did not start."""
_BESIDE = "LOCAL_WORLD_SIZE"


@dataclass(frozen=True)
class Rank:
    """One process of several.

    Attributes:
        number: from 0.
        of: how many there are.

    Raises:
        ValueError: no number below `of`.
    """

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"rank must be at least 0 and below the world size {self.of}, got {self.number}")

    def share(self, parts: int) -> range:
        """Numbers of the parts of this rank: every `of`-th, so that the parts of all ranks are all parts, once each.

        >>> [list(Rank(number, 3).share(7)) for number in range(3)]
        [[0, 3, 6], [1, 4], [2, 5]]
        """
        return range(self.number, parts, self.of)


def rank_of(number: int | None, of: int | None, environment: Mapping[str, str]) -> Rank:
    """The rank that options name, else the one that torchrun or srun gave, else the only one.

    Args:
        number: option ``--rank``.
        of: option ``--world-size``.
        environment: of the process.

    Raises:
        ConfigError: one of two without the other, or no such rank.
    """
    if (number is None) != (of is None):
        raise ConfigError("--rank and --world-size go together")
    if number is None or of is None:
        number, of = _launched(environment)
    try:
        return Rank(number, of)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def default_threads(environment: Mapping[str, str]) -> int:
    """Threads of a process where no option names them: its cores, shared with the ranks that torchrun put beside it."""
    beside = environment.get(_BESIDE, "1")
    return max(1, available_cores() // max(1, _number(_BESIDE, beside)))


def _launched(environment: Mapping[str, str]) -> tuple[int, int]:
    for names in _LAUNCHERS:
        found = [environment.get(name) for name in names]
        if all(found):
            number, of = (_number(name, value or "") for name, value in zip(names, found, strict=True))
            return number, of
    return 0, 1


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is '{text}'; a launcher sets it to a whole number")
    return int(text)
