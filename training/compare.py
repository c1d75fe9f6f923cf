"""Several heads under one recipe on one data set: train, export, calibrate and test each, one after the other.

Each run has its own folder and is skipped when it is done or resumed when it was interrupted.
"""

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from facemargin.bundle import MANIFEST_NAME, Bundle, load_bundle, update_manifest
from facemargin.errors import ConfigError
from facemargin.heads import HEADS
from facemargin.partitions import PARTITIONS
from training.checkpoint import checkpoints_in
from training.config import EvaluationConfig, TrainConfig
from training.data.pairs import Pairs, parse_folds, read_pairs
from training.evaluate import calibrate_bundle, evaluate_bundle
from training.evaluation_report import EvaluationReport
from training.plots import Scores, plot_roc
from training.publish import publish
from training.seeds import seeds_markdown, summarise
from training.trainer import TrainResult, require_same_run, train


class HeadResult(BaseModel):
    """What one head reached with one seed.

    Attributes:
        head, partition, seed: which run.
        epochs, steps, images: its length; images are those trained on, with repetition.
        minutes: time in the training loop.
        loss: of the last step.
        hardware, precision: what it ran on.
        validation: figures of the last validation (fold 5 of ``lfw-open``).
        test: the report on the test pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str
    partition: str = "dense"
    seed: int
    epochs: int
    steps: int
    images: int
    minutes: float
    loss: float | None
    hardware: str
    precision: str
    validation: dict[str, float]
    test: EvaluationReport


def compare(
    config: TrainConfig,
    heads: Sequence[str],
    seeds: Sequence[int],
    *,
    partitions: Sequence[str] | None = None,
    console: Console | None = None,
) -> list[HeadResult]:
    """Run every head with every partition and seed.

    Writes ``results.json``, ``results.csv``, ``results.md`` and ``roc.png`` after each run, and with several seeds
    ``seeds.md`` at the end: means over seeds, and paired differences from the first row.

    Args:
        config: the recipe; its head, partition and seed are replaced, its output holds one folder a run.
        heads: names of heads.
        seeds: seeds of the runs.
        partitions: names of partitions; the recipe's by default.
        console: for progress; stderr by default.

    Returns:
        The results so far, in the order of heads, partitions and seeds. A run that is interrupted ends the comparison;
        the next call goes on with it.

    Raises:
        ConfigError: an unknown head or partition, or a recipe without test pairs.
    """
    partitions = [config.partition] if partitions is None else partitions
    _require_known("heads", heads, HEADS)
    _require_known("partitions", partitions, PARTITIONS)
    test, pairs = config.test, config.test.pairs if config.test else None
    if test is None or pairs is None:
        raise ConfigError("a comparison needs [test] with images and pairs in the config")
    console = console or Console(stderr=True)
    results: list[HeadResult] = []
    for head, partition, seed in itertools.product(heads, partitions, seeds):
        folder = config.output / "-".join([head, *([] if partition == "dense" else [partition]), f"seed{seed}"])
        run = config.model_copy(update={"head": head, "partition": partition, "seed": seed, "output": folder})
        result = _one(run, test, read_pairs(pairs), console)
        if result is None:
            return results
        results.append(result)
        _write(results, config.output)
    if len(seeds) > 1:
        tested = read_pairs(pairs).select(results[0].test.folds)
        (config.output / "seeds.md").write_text(seeds_markdown(summarise(_by_seeds(results), tested)), encoding="utf-8")
    return results


def _by_seeds(results: Sequence[HeadResult]) -> list[tuple[str, list[tuple[float, ...]]]]:
    grouped: dict[str, list[tuple[float, ...]]] = {}
    for result in results:
        grouped.setdefault(f"{result.head}, {result.partition}", []).append(result.test.similarity)
    return list(grouped.items())


def _require_known(what: str, names: Sequence[str], known: Mapping[str, object]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown {what}: {', '.join(unknown)}; known {what}: {', '.join(known)}")


def _one(config: TrainConfig, test: EvaluationConfig, pairs: Pairs, console: Console) -> HeadResult | None:
    done = config.output / "result.json"
    if done.exists():
        require_same_run(config, json.loads((config.output / "config.json").read_text(encoding="utf-8")), config.output)
        return HeadResult.model_validate_json(done.read_text(encoding="utf-8"))
    trained = train(config, resume=bool(checkpoints_in(config.output / "checkpoints")), console=console)
    if not trained.finished:
        return None
    bundle = _bundle_of(config, test)
    report = evaluate_bundle(
        bundle,
        pairs,
        test.images,
        folds=parse_folds(test.folds) if test.folds else None,
        aligned=True,
        protocol=config.data.protocol,
        console=console,
    )
    update_manifest(bundle, bundle.manifest.model_copy(update={"metrics": report.records()}))
    result = _result(config, trained, report)
    partial = done.with_suffix(".partial")
    partial.write_text(result.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(done)
    console.print(report.to_table())
    return result


def _bundle_of(config: TrainConfig, test: EvaluationConfig) -> Bundle:
    folder = config.output / "bundle"
    exported = (folder / MANIFEST_NAME).exists()
    bundle = load_bundle(folder) if exported else publish(config.output, folder, flip_sum=test.flip_sum)
    validation = config.validation
    if validation is None or bundle.manifest.calibration is not None:
        return bundle
    people = None
    if validation.pairs is not None:
        pairs = read_pairs(validation.pairs)
        people = pairs.people(parse_folds(validation.folds) if validation.folds else None)
    source = f"validation people of {config.data.protocol}" + (f", fold {validation.folds}" if validation.folds else "")
    return calibrate_bundle(bundle, validation.images, people=people, aligned=True, source=source)


def _result(config: TrainConfig, trained: TrainResult, report: EvaluationReport) -> HeadResult:
    last = trained.history.validation[-1] if trained.history.validation else {}
    return HeadResult(
        head=config.head,
        partition=config.partition,
        seed=config.seed,
        epochs=config.epochs,
        steps=trained.step,
        images=trained.history.images,
        minutes=trained.history.seconds / 60,
        loss=trained.loss,
        hardware=trained.hardware,
        precision=trained.precision,
        validation={key: value for key, value in last.items() if key not in ("epoch", "step")},
        test=report,
    )


_COLUMNS = (
    "head",
    "partition",
    "seed",
    "accuracy %",
    "TAR@FAR=1e-2 %",
    "EER %",
    "validation accuracy %",
    "epochs",
    "minutes",
)


def _row(result: HeadResult) -> list[str]:
    tar = next(row.tar for row in result.test.tar if row.far == 1e-2)
    shown = [
        f"{100 * estimate.value:.2f}"
        + ("" if estimate.low is None else f" ({100 * estimate.low:.1f}–{100 * (estimate.high or 0):.1f})")
        for estimate in (result.test.accuracy, tar, result.test.eer)
    ]
    validated = result.validation.get("accuracy")
    return [
        result.head,
        result.partition,
        str(result.seed),
        *shown,
        "" if validated is None else f"{100 * validated:.2f}",
        str(result.epochs),
        f"{result.minutes:.1f}",
    ]


def results_table(results: Sequence[HeadResult]) -> Table:
    """The results for a terminal."""
    table = Table(
        title="heads under one recipe; 95 % bootstrap intervals over people in brackets", title_justify="left"
    )
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("head", "partition") else "right")
    for result in results:
        table.add_row(*_row(result))
    return table


def results_markdown(results: Sequence[HeadResult]) -> str:
    """The results as a Markdown table."""
    lines = [" | ".join(_COLUMNS), " | ".join(["---", "---", *["---:"] * (len(_COLUMNS) - 2)])]
    lines += [" | ".join(_row(result)) for result in results]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _write(results: Sequence[HeadResult], output: Path) -> None:
    rows = [json.loads(result.model_dump_json()) for result in results]
    (output / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with (output / "results.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([_COLUMNS, *(_row(result) for result in results)])
    (output / "results.md").write_text(results_markdown(results), encoding="utf-8")
    first_seed = results[0].seed
    several = len({r.partition for r in results}) > 1
    curves = {
        f"{r.head}, {r.partition}" if several else r.head: Scores(r.test.genuine, r.test.impostor)
        for r in results
        if r.seed == first_seed
    }
    plot_roc(curves, output / "roc.png", title=results[0].test.protocol)
