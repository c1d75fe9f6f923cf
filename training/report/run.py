"""One run of a comparison: train, export, calibrate, test, and keep all that a report wants to know of it."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from facemargin.bundle import MANIFEST_NAME, Bundle, load_bundle, update_manifest
from facemargin.errors import CheckpointError, ExportRefusedError, NonFiniteLossError
from training.calibration import calibrate_bundle
from training.checkpoint import checkpoints_in
from training.config import EvaluationConfig, TrainConfig, make_config
from training.data.pairs import Pairs, parse_folds, read_pairs
from training.evaluate import evaluate_bundle
from training.evaluation_report import EvaluationReport
from training.hardware import choose_device
from training.publish import publish
from training.report.measure import measure_angles, measure_variants
from training.report.results import (
    FAILURE_NAME,
    RESULT_NAME,
    Cost,
    FailedRun,
    HeadResult,
    PairPeople,
    Run,
    TrainingData,
    load,
    read_curve,
    save,
)
from training.trainer import TrainResult, build_head, require_same_run, restore_model, train, training_images

_VERSIONS = ("facemargin", "torch", "numpy", "onnxruntime")
_PER_RUN = {"head", "partition", "seed", "output"}


def make_run(
    config: TrainConfig, test: EvaluationConfig, pairs: Pairs, *, data_sha256: str, command: str, console: Console
) -> Run | None:
    """Make a run, or find what it left when it was made before; a refused export is tried again.

    Args:
        config: the run; its output is its own folder.
        test: what it is measured on.
        pairs: the protocol of the test.
        data_sha256: fingerprint of the training set.
        command: as the comparison was called, for the report.
        console: for progress.

    Returns:
        Its result, or the failure of a run whose loss is not finite or whose export is refused; None when it was
        interrupted.

    Raises:
        CheckpointError: the folder holds a run of other settings, or of other training data.
    """
    left = left_in(config.output)
    if left is not None and not _export_refused(left):
        require_same_run(config, _saved_config(config.output), config.output)
        if isinstance(left, HeadResult):
            _require_same_measurement(left, config, test, data_sha256)
        return left
    try:
        trained = train(config, resume=bool(checkpoints_in(config.output / "checkpoints")), console=console)
        if not trained.finished:
            return None
        result = _measured(config, test, pairs, trained, command, console)
    except (NonFiniteLossError, ExportRefusedError) as error:
        failure = _failure(config, error)
        save(failure, config.output / FAILURE_NAME)
        console.print(f"[red]{failure.head}, {failure.partition}, seed {failure.seed}:[/] {error}", highlight=False)
        return failure
    save(result, config.output / RESULT_NAME)
    (config.output / FAILURE_NAME).unlink(missing_ok=True)
    console.print(result.test.to_table())
    return result


def left_in(folder: Path) -> Run | None:
    """What a run left in its folder when it ended; None where it did not, or where the file is torn.

    Results of earlier versions lack the people of their pairs and the loss trace: both are read again.

    Raises:
        DataError: a file of another version.
        CheckpointError: an old result whose config cannot be read.
    """
    result = load(HeadResult, folder / RESULT_NAME)
    if result is None:
        return load(FailedRun, folder / FAILURE_NAME)
    if result.people is None:
        test = make_config(_saved_config(folder), str(folder)).test
        if test is not None and test.pairs is not None:
            people = PairPeople.of(read_pairs(test.pairs).select(result.test.folds))
            result = result.model_copy(update={"people": people})
    return result if result.curve else result.model_copy(update={"curve": read_curve(folder / "loss.csv")})


def _saved_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete {folder} to make its run anew") from error
    return values


def _export_refused(run: Run) -> bool:
    return isinstance(run, FailedRun) and run.step is None


def _require_same_measurement(
    result: HeadResult, config: TrainConfig, test: EvaluationConfig, data_sha256: str
) -> None:
    """Refuse a result of another test or of other training data.

    Raises:
        CheckpointError: naming what differs.
    """
    now = test.model_dump(mode="json")
    before = (result.recipe or _saved_config(config.output)).get("test") or {}
    changed = [f"test.{name}" for name in now if name in before and now[name] != before[name]]
    if changed:
        raise CheckpointError(
            f"{config.output} belongs to a run with other settings of: {', '.join(changed)}; "
            f"delete its {RESULT_NAME} to measure it again, or compare in another output folder"
        )
    if result.data is not None and result.data.sha256 != data_sha256:
        raise CheckpointError(
            f"{config.output} belongs to a run on other training data (sha256 {result.data.sha256[:12]}…, "
            f"now {data_sha256[:12]}…); compare in another output folder"
        )


def _failure(config: TrainConfig, error: NonFiniteLossError | ExportRefusedError) -> FailedRun:
    step = error.step if isinstance(error, NonFiniteLossError) else None
    return FailedRun(
        head=config.head,
        partition=config.partition,
        seed=config.seed,
        step=step,
        failure="export refused" if step is None else f"diverged at step {step:,}",
        advice=str(error),
    )


def _measured(
    config: TrainConfig, test: EvaluationConfig, pairs: Pairs, trained: TrainResult, command: str, console: Console
) -> HeadResult:
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
    return _result(config, trained, report, pairs.select(report.folds), command, console)


def _bundle_of(config: TrainConfig, test: EvaluationConfig) -> Bundle:
    folder = config.output / "bundle"
    bundle = load_bundle(folder) if (folder / MANIFEST_NAME).exists() else None
    if bundle is None or bundle.manifest.flip_sum != test.flip_sum:
        bundle = publish(config.output, folder, flip_sum=test.flip_sum, overwrite=True)
    validation = config.validation
    if validation is None or bundle.manifest.calibration is not None:
        return bundle
    people = None
    if validation.pairs is not None:
        pairs = read_pairs(validation.pairs)
        people = pairs.people(parse_folds(validation.folds) if validation.folds else None)
    source = f"validation people of {config.data.protocol}" + (f", fold {validation.folds}" if validation.folds else "")
    return calibrate_bundle(bundle, validation.images, people=people, aligned=True, source=source)


def _result(
    config: TrainConfig, trained: TrainResult, report: EvaluationReport, tested: Pairs, command: str, console: Console
) -> HeadResult:
    history, folder, images = trained.history, config.output, training_images(config)
    last = history.validation[-1] if history.validation else {}
    backbone, _, checkpoint = restore_model(folder)
    head = build_head(config, images.class_counts(), trained.step)
    data, annealing = checkpoint.state["data"], checkpoint.state["head_options"].get("annealing")
    return HeadResult(
        head=config.head,
        partition=config.partition,
        seed=config.seed,
        epochs=config.epochs,
        steps=trained.step,
        images=history.images,
        minutes=history.seconds / 60,
        loss=trained.loss,
        hardware=trained.hardware,
        precision=trained.precision,
        validation={key: value for key, value in last.items() if key not in ("epoch", "step")},
        test=report,
        people=PairPeople.of(tested),
        variants=measure_variants(folder, flip_sum=report.flip_sum),
        angles=measure_angles(folder, images, console=console),
        curve=read_curve(folder / "loss.csv"),
        annealing=annealing,
        cost=Cost(
            step_ms=history.step_ms,
            images_per_second=history.images / history.seconds if history.seconds else 0.0,
            peak_memory_bytes=history.peak_memory_bytes,
            device=choose_device(config.device).type,
            backbone_parameters=sum(p.numel() for p in backbone.parameters()),
            head_parameters=sum(p.numel() for p in head.parameters()),
        ),
        data=TrainingData(protocol=config.data.protocol, **{key: data[key] for key in ("people", "images", "sha256")}),
        recipe=json.loads(config.model_dump_json(exclude=_PER_RUN)),
        command=command,
        finished_at=datetime.now(UTC).isoformat(timespec="minutes"),
        versions={"Python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
    )
