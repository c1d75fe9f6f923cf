"""Comparing loss heads."""

import re
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facemargin.errors import ConfigError
from training.cli.options import (
    ConfigFile,
    Epochs,
    Folders,
    Json,
    PairsFile,
    Workers,
    print_json,
    print_table,
    resolve_config,
)

if TYPE_CHECKING:
    from training.compare import Outcome


class MnistRecipe(StrEnum):
    """Comparisons on MNIST."""

    mnist = "mnist"
    mnist_2d = "mnist-2d"


def compare(
    config: ConfigFile = None,
    heads: Annotated[
        str | None,
        typer.Option(help="Heads separated by commas, or all (the default); MNIST takes l-softmax:2 for a margin."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds separated by commas.")] = "0",
    partitions: Annotated[
        str | None, typer.Option(help="Partitions separated by commas, or all; by default the config's.")
    ] = None,
    data: Folders = None,
    pairs: PairsFile = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the comparison; one folder a run inside.")] = None,
    epochs: Epochs = None,
    workers: Workers = None,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Make the report of --output anew from its finished runs; train nothing."),
    ] = False,
    recipe: Annotated[
        MnistRecipe | None,
        typer.Option(help="Instead of faces: the papers' MNIST table, or their picture of embeddings in a plane."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --recipe: another length of the runs.")] = None,
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--short", help="With --recipe: the published form, the default on a GPU, or the short one."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and test several heads under one recipe, one after the other, and report; resumes what was interrupted."""
    if report_only:
        _report_only(
            output, as_json, config=config, heads=heads, partitions=partitions, data=data, pairs=pairs, epochs=epochs,
            workers=workers, recipe=recipe, steps=steps, full=full,
        )  # fmt: skip
        return
    from training.ranks import refuse_several_processes

    refuse_several_processes("compare")
    numbers = _numbers("--seeds", seeds)
    if recipe is not None:
        _refuse_with_recipe(config=config, partitions=partitions, pairs=pairs, epochs=epochs, workers=workers)
        _compare_digits(recipe, heads, numbers, data, output, steps=steps, full=full, as_json=as_json)
        return
    if steps is not None or full is not None:
        raise ConfigError("--steps, --full and --short belong to --recipe; faces take --epochs")
    resolved = resolve_config(
        config, False, data__folders=data, data__pairs=pairs, output=output, epochs=epochs, data__workers=workers
    )
    from facemargin.heads import HEADS
    from facemargin.partitions import PARTITIONS
    from training.compare import compare as run

    names = list(HEADS) if heads in (None, "all") else [name.strip() for name in heads.split(",")]
    ways = list(PARTITIONS) if partitions == "all" else (partitions or resolved.partition).split(",")
    _print_outcome(
        run(resolved, names, numbers, partitions=[name.strip() for name in ways], command=_called()), as_json
    )


def _called() -> str:
    """The command as it was typed."""
    return shlex.join(["facemargin", *sys.argv[1:]])


def _report_only(output: Path | None, as_json: bool, **others: Any) -> None:
    given = [f"--{name}" for name, value in others.items() if value is not None]
    if output is None or given:
        raise ConfigError(f"--report-only takes --output DIR alone{', not ' + ', '.join(given) if given else ''}")
    from training.compare import report_again

    _print_outcome(report_again(output), as_json)


def _print_outcome(outcome: "Outcome", as_json: bool) -> None:
    """The runs; exit code 130 after an interruption, 1 where a run failed."""
    from training.report.results import brief
    from training.report.write import results_table

    if as_json:
        print_json([brief(run) for run in outcome.runs])
    else:
        print_table(results_table(outcome.runs))
        if outcome.report is not None:
            typer.echo(f"report: {outcome.report}")
    for run in outcome.failed:
        typer.echo(f"{run.head}, {run.partition}, seed {run.seed} has no result: {run.failure}; {run.advice}", err=True)
    if not outcome.finished:
        raise typer.Exit(130)
    if outcome.failed:
        raise typer.Exit(1)


def _numbers(option: str, text: str) -> list[int]:
    numbers = [number.strip() for number in text.split(",")]
    if not all(re.fullmatch("[0-9]+", number) for number in numbers):
        raise ConfigError(f"{option} must be numbers from 0 separated by commas, got {text!r}")
    return [int(number) for number in numbers]


def _refuse_with_recipe(**flags: Any) -> None:
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot go with --recipe, which brings its own")


def _compare_digits(
    recipe: MnistRecipe,
    heads: str | None,
    seeds: list[int],
    data: list[Path] | None,
    output: Path | None,
    *,
    steps: int | None,
    full: bool | None,
    as_json: bool,
) -> None:
    if not data or len(data) > 1 or output is None:
        raise ConfigError("--recipe needs one --data DIR with MNIST's four files, and --output DIR")
    from training.mnist import RECIPES, results_table, run_recipe

    names = None if heads in (None, "all") else [name.strip() for name in heads.split(",")]
    results = run_recipe(recipe.value, names, seeds, data[0], output, full=full, steps=steps, command=_called())
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        print_table(results_table(results))
    wanted = dict.fromkeys(names or RECIPES[recipe.value, bool(full)].heads)
    if len(results) < len(wanted) * len(set(seeds)):
        raise typer.Exit(130)
