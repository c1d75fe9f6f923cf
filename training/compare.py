"""Several heads under one recipe on one data set: train, export, calibrate and test each, one after the other.

Each run has its own folder and is skipped when it is done or resumed when it was interrupted. What a run leaves and
what is made of it is `training.report`'s business.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from facemargin.errors import ConfigError, DataError
from facemargin.heads import HEADS
from facemargin.partitions import PARTITIONS
from training.config import TrainConfig, make_config
from training.data.pairs import read_pairs
from training.report.comparable import require_comparable
from training.report.results import RESULT_NAME, FailedRun, Run, finished
from training.report.run import left_in, make_run
from training.report.write import write_report, write_runs
from training.trainer import data_record, training_images


@dataclass(frozen=True)
class Outcome:
    """How a call of `compare` ended.

    Attributes:
        runs: results and failures, in the order of heads, partitions and seeds.
        finished: False when it was interrupted; the next call goes on.
        report: the page; None where no run has a result.
    """

    runs: tuple[Run, ...]
    finished: bool
    report: Path | None

    @property
    def failed(self) -> tuple[FailedRun, ...]:
        """The runs without a result."""
        return tuple(run for run in self.runs if isinstance(run, FailedRun))


def compare(
    config: TrainConfig,
    heads: Sequence[str],
    seeds: Sequence[int],
    *,
    partitions: Sequence[str] | None = None,
    command: str = "",
    console: Console | None = None,
) -> Outcome:
    """Run every head with every partition and seed, and write the report.

    ``results.json``, ``results.csv`` and ``results.md`` are written after each run; ``report.html``, ``summary.json``,
    ``seeds.md`` and ``roc.png`` at the end, also of an interrupted or failing call. Each file is whole or not there.

    Args:
        config: the recipe; its head, partition and seed are replaced, its output holds one folder a run.
        heads: names of heads.
        seeds: seeds of the runs.
        partitions: names of partitions; the recipe's by default.
        command: as it was called, for the report.
        console: for progress; stderr by default.

    Returns:
        The runs. One whose loss is not finite, or whose export is refused, is among them as a `FailedRun`, and the
        others go on.

    Raises:
        ConfigError: an unknown head or partition, a seed below 0, or a recipe without test pairs.
        CheckpointError: the output folder holds runs of other settings or other training data.
        FacemarginError: whatever else ends a run; the report of those before it is written.
    """
    partitions = [config.partition] if partitions is None else partitions
    _require_known("heads", heads, HEADS)
    _require_known("partitions", partitions, PARTITIONS)
    test, pairs = config.test, config.test.pairs if config.test else None
    if test is None or pairs is None:
        raise ConfigError("a comparison needs [test] with images and pairs in the config")
    console = console or Console(stderr=True)
    protocol, wanted = read_pairs(pairs), list(_runs(config, heads, partitions, seeds))
    data_sha256 = data_record(training_images(config))["sha256"]
    runs: list[Run] = []
    try:
        for each in wanted:
            run = make_run(each, test, protocol, data_sha256=data_sha256, command=command, console=console)
            if run is None:
                break
            runs.append(run)
            write_runs(runs, config.output)
    finally:
        report = write_report(runs, config.output)
    return Outcome(tuple(runs), len(runs) == len(wanted), report)


def report_again(output: Path) -> Outcome:
    """Make the files of a comparison anew from what its runs left in their folders; nothing is trained or measured.

    Raises:
        DataError: no run in the folder, or runs that cannot be compared.
    """
    runs = [run for folder in sorted(output.glob("*/")) if (run := left_in(folder)) is not None]
    if not runs:
        raise DataError(f"{output} holds no finished run of a comparison ({RESULT_NAME} in a folder a run)")
    heads, partitions = list(HEADS), list(PARTITIONS)
    runs.sort(key=lambda run: (heads.index(run.head), partitions.index(run.partition), run.seed))
    if results := finished(runs):
        require_comparable(results)
    write_runs(runs, output)
    return Outcome(tuple(runs), True, write_report(runs, output))


def _require_known(what: str, names: Sequence[str], known: Mapping[str, object]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown {what}: {', '.join(unknown)}; known {what}: {', '.join(known)}")


def _runs(
    config: TrainConfig, heads: Sequence[str], partitions: Sequence[str], seeds: Sequence[int]
) -> Iterator[TrainConfig]:
    """The config of each run."""
    for head, partition, seed in itertools.product(
        dict.fromkeys(heads), dict.fromkeys(partitions), dict.fromkeys(seeds)
    ):
        name = "-".join([head, *([] if partition == "dense" else [partition]), f"seed{seed}"])
        changes = {"head": head, "partition": partition, "seed": seed, "output": config.output / name}
        yield make_config(config.model_dump() | changes, f"{head}, {partition}, seed {seed}")
