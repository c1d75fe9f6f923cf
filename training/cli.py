"""The commands of training: each parses, calls one library function, and prints. Heavy imports wait for the call."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facemargin.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from facemargin.preprocessing import Detector
    from training.config import TrainConfig

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
DetectorFile = Annotated[
    Path | None,
    typer.Option("--detector", help="Face detector file; by default the one of `facemargin models pull yunet`."),
]
Aligned = Annotated[bool, typer.Option("--aligned", help="The pictures are aligned crops: detect nothing.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the run's settings (docs/training.md).")
]
Folders = Annotated[
    list[Path] | None, typer.Option("--data", help="Image folder, one folder a person; may be given several times.")
]
PairsFile = Annotated[Path | None, typer.Option("--pairs", help="LFW's pairs.txt, for protocol lfw-open.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
Workers = Annotated[int | None, typer.Option(help="Loader processes.")]
Bundle = Annotated[Path, typer.Option("--bundle", help="The bundle's folder.")]


class Template(StrEnum):
    """Alignment templates."""

    arcface = "arcface-112"
    sphereface = "sphereface-112x96"


class FacePolicy(StrEnum):
    """Which one of several faces."""

    central = "central"
    largest = "largest"


class MnistRecipe(StrEnum):
    """Comparisons on MNIST."""

    mnist = "mnist"
    mnist_2d = "mnist-2d"


class CropFormat(StrEnum):
    """File format of aligned crops."""

    png = "png"
    jpeg = "jpeg"


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    if value is None or value == []:
        return
    *tables, name = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[name] = value


def _config(path: Path | None, resume: bool, **flags: Any) -> "TrainConfig":
    from training.config import load_config, make_config, merge

    overrides: dict[str, Any] = {}
    for key, value in flags.items():
        _set(overrides, key.replace("__", "."), value)
    saved = Path(overrides.get("output", ".")) / "config.json"
    if resume and path is None and saved.is_file():
        try:
            values = json.loads(saved.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{saved} cannot be read ({error}); pass the run's --config instead") from error
        return make_config(merge(values, overrides), str(saved))
    return load_config(path, overrides)


def train(
    config: ConfigFile = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Loss head: softmax, modified, l-softmax, a-softmax, am-softmax, l2-softmax, normface or arcface."
        ),
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            help="How the sum over classes is computed: dense, streaming, sharded, sampled, class-based, hierarchical, "
            "adaptive or nce."
        ),
    ] = None,
    data: Folders = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run: config, checkpoints, loss trace, events.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")
    ] = False,
    start_from: Annotated[
        Path | None, typer.Option(help="Run or checkpoint whose weights a new run starts with.")
    ] = None,
    reset_head: Annotated[
        bool, typer.Option("--reset-head", help="Of --start-from take the backbone alone: for other people.")
    ] = False,
    backbone: Annotated[str | None, typer.Option(help="iresnet18/34/50/100, mobilefacenet or sphereface20.")] = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the top of the schedule.")] = None,
    pairs: PairsFile = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Train a face embedding under a loss head; flags win over the config file."""
    resolved = _config(
        config, resume, head=head, partition=partition, start_from=start_from, reset_head=reset_head or None,
        data__folders=data, output=output, seed=seed, backbone__name=backbone, epochs=epochs,
        batch_size=batch_size, optimizer__learning_rate=learning_rate, data__pairs=pairs, device=device,
        precision=precision, data__workers=workers,
    )  # fmt: skip
    from training.trainer import train as run

    result = run(resolved, resume=resume)
    last = result.history.validation[-1] if result.history.validation else None
    if as_json:
        fields = ("step", "finished", "loss", "people", "images", "hardware", "precision")
        content = {name: getattr(result, name) for name in fields}
        _print_json(
            content | {"checkpoint": str(result.checkpoint), "minutes": result.history.seconds / 60, "validation": last}
        )
    else:
        minutes = result.history.seconds / 60
        typer.echo(
            f"{result.step:,} steps in {minutes:.1f} min, loss {result.loss:.4f}; checkpoint {result.checkpoint}"
        )
        if result.finished:
            typer.echo(f"next: facemargin export --run {resolved.output} --output BUNDLE")
    if not result.finished:
        raise typer.Exit(130)


def export(
    run: Annotated[Path, typer.Option(help="A run's output folder (its newest checkpoint), or a checkpoint folder.")],
    output: Annotated[Path, typer.Option(help="The bundle's folder.")],
    crops: Annotated[
        Path | None, typer.Option(help="Folder of aligned crops for the parity check; the training images by default.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name in the manifest.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights, such as an SPDX identifier.")] = "",
    flip_sum: Annotated[
        bool, typer.Option("--flip-sum", help="Embeddings add the mirrored crop (twice the time).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is already there.")] = False,
    as_json: Json = False,
) -> None:
    """Export a trained model as a bundle, after checking that ONNX Runtime agrees with PyTorch."""
    from training.publish import publish

    bundle = publish(
        run, output, crops=crops, name=name, licence=licence, flip_sum=flip_sum, overwrite=overwrite
    )  # fmt: skip
    if as_json:
        _print_json({"bundle": str(bundle.path), "model_id": bundle.model_id, "name": bundle.manifest.name})
    else:
        typer.echo(f"{bundle.path}: {bundle.manifest.name}, model {bundle.model_id}")
        typer.echo(f"next: facemargin calibrate --bundle {bundle.path} --images DIR")


def evaluate(
    bundle: Bundle,
    images: Annotated[Path, typer.Option(help="Folder with one folder a person.")],
    pairs: Annotated[Path, typer.Option(help="Pairs in the form of LFW's pairs.txt.")],
    folds: Annotated[str | None, typer.Option(help="Folds to use, such as 5 or 6-10; all by default.")] = None,
    aligned: Aligned = False,
    detector: DetectorFile = None,
    flip_sum: Annotated[
        bool | None,
        typer.Option("--flip-sum/--no-flip-sum", help="Add the mirrored crop; as the bundle says by default."),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Also compare every pair of the people's images, for low FMR.")
    ] = False,
    roc: Annotated[Path | None, typer.Option(help="Draw the ROC into this .png or .svg file.")] = None,
    histogram: Annotated[Path | None, typer.Option(help="Draw the score distributions into this file.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the bundle's manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle on verification pairs: k-fold accuracy, EER, AUC and TAR@FAR with intervals over people."""
    from facemargin.bundle import load_bundle, update_manifest
    from facemargin.embedder import Embedder
    from training.data.pairs import parse_folds, read_pairs
    from training.evaluate import embed_people, evaluate_all_pairs, evaluate_bundle, with_flip_sum
    from training.plots import Scores, plot_roc, plot_scores

    loaded, protocol = load_bundle(bundle), read_pairs(pairs)
    if record and flip_sum not in (None, loaded.manifest.flip_sum):
        raise ConfigError("--record writes what the bundle itself reaches; leave --flip-sum/--no-flip-sum away")
    for picture in (roc, histogram):
        if picture is not None and picture.suffix not in (".png", ".svg"):
            raise ConfigError(f"{picture} must end in .png or .svg")
    chosen = None if folds is None else parse_folds(folds)
    detecting = _detector(detector, aligned)
    report = evaluate_bundle(
        loaded, protocol, images, folds=chosen, aligned=aligned, detector=detecting, flip_sum=flip_sum,
        protocol=pairs.name,
    )  # fmt: skip
    everyone = None
    if all_pairs:
        people = (protocol if chosen is None else protocol.select(chosen)).people()
        template = loaded.manifest.preprocessing.template
        vectors, names = embed_people(
            Embedder(with_flip_sum(loaded, flip_sum)).embed, images, people, aligned=aligned, detector=detecting,
            template=template,
        )  # fmt: skip
        everyone = evaluate_all_pairs(vectors, names, protocol=f"all pairs of {report.protocol}")
    if roc is not None:
        plot_roc({loaded.manifest.name: Scores(report.genuine, report.impostor)}, roc, title=report.protocol)
    if histogram is not None:
        plot_scores(report.genuine, report.impostor, histogram, title=report.protocol)
    if record:
        found = report.records() + (() if everyone is None else everyone.records())
        kept = {(old.protocol, old.name): old for old in loaded.manifest.metrics}
        kept |= {(new.protocol, new.name): new for new in found}
        update_manifest(loaded, loaded.manifest.model_copy(update={"metrics": tuple(kept.values())}))
    if as_json:
        content = report.model_dump(mode="json", exclude={"similarity", "same", "fold"})
        _print_json(content | {"all_pairs": None if everyone is None else everyone.model_dump(mode="json")})
        return
    _print_table(report.to_table())
    if everyone is not None:
        _print_table(everyone.to_table())


def calibrate(
    bundle: Bundle,
    images: Annotated[Path, typer.Option(help="Folder with one folder a person; people the model was not trained on.")],
    pairs: Annotated[Path | None, typer.Option(help="Use only the people in this pairs file.")] = None,
    folds: Annotated[str | None, typer.Option(help="Folds of the pairs file, such as 5.")] = None,
    aligned: Aligned = False,
    detector: DetectorFile = None,
    prior: Annotated[
        float, typer.Option(min=1e-6, max=1 - 1e-6, help="P(same) before the photographs are seen.")
    ] = 0.5,
    source: Annotated[str, typer.Option(help="Whose photographs these are, for the manifest.")] = "",
    as_json: Json = False,
) -> None:
    """Fit probabilities and thresholds to your own photographs and write them into the bundle's manifest."""
    from facemargin.bundle import load_bundle
    from training.data.pairs import parse_folds, read_pairs
    from training.evaluate import calibrate_bundle

    people = None
    if pairs is not None:
        people = read_pairs(pairs).people(None if folds is None else parse_folds(folds))
    elif folds is not None:
        raise ConfigError("--folds goes with --pairs")
    changed = calibrate_bundle(
        load_bundle(bundle), images, people=people, aligned=aligned, detector=_detector(detector, aligned), prior=prior,
        source=source or str(images.name) + ("" if folds is None else f", fold {folds}"),
    )  # fmt: skip
    fitted = changed.manifest.calibration
    if fitted is None:
        raise CalibrationError(f"{bundle} has no calibration after calibrating")
    if as_json:
        _print_json(fitted.model_dump(mode="json"))
        return
    typer.echo(
        f"{fitted.people:,} people, {fitted.genuine_pairs:,} genuine and {fitted.impostor_pairs:,} impostor pairs"
    )
    for row in fitted.rows:
        note = "" if row.supported else "  not supported: fewer than 30 errors"
        typer.echo(f"FMR {row.fmr:.0e}: cosine {row.threshold:.4f} ({row.errors} impostor errors){note}")


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
    """Train and test several heads under one recipe, one after the other; resumes what was interrupted."""
    numbers = _numbers("--seeds", seeds)
    if recipe is not None:
        _refuse_with_recipe(config=config, partitions=partitions, pairs=pairs, epochs=epochs, workers=workers)
        _compare_digits(recipe, heads, numbers, data, output, steps=steps, full=full, as_json=as_json)
        return
    if steps is not None or full is not None:
        raise ConfigError("--steps, --full and --short belong to --recipe; faces take --epochs")
    resolved = _config(
        config, False, data__folders=data, data__pairs=pairs, output=output, epochs=epochs, data__workers=workers
    )
    from facemargin.heads import HEADS
    from facemargin.partitions import PARTITIONS
    from training.compare import compare as run
    from training.compare import results_table

    names = list(HEADS) if heads in (None, "all") else [name.strip() for name in heads.split(",")]
    ways = list(PARTITIONS) if partitions == "all" else (partitions or resolved.partition).split(",")
    results = run(resolved, names, numbers, partitions=[name.strip() for name in ways])
    if as_json:
        skipped = {"test": {"similarity", "same", "fold"}}
        _print_json([result.model_dump(mode="json", exclude=skipped) for result in results])
    else:
        _print_table(results_table(results))
    if len(results) < len(names) * len(ways) * len(numbers):
        raise typer.Exit(130)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} must be numbers separated by commas, got {text!r}") from error


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
    results = run_recipe(recipe.value, names, seeds, data[0], output, full=full, steps=steps)
    if as_json:
        _print_json([result.model_dump(mode="json") for result in results])
    else:
        _print_table(results_table(results))
    wanted = dict.fromkeys(names or RECIPES[recipe.value, bool(full)].heads)
    if len(results) < len(wanted) * len(set(seeds)):
        raise typer.Exit(130)


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder of real photographs, one folder a person; drawn faces by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for everything it makes, by default facemargin-demo.")
    ] = None,
    detector: DetectorFile = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service open at the end, until Ctrl-C.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Some seconds only: proves that everything works; its figures mean nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawn people, the split, the weights and the order.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the whole system once: train, evaluate, export, serve, enrol, verify and search."""
    from training.demo import run_demo

    run_demo(
        data=data, output=output, keep=keep, json_output=as_json, detector=detector, quick=quick, seed=seed, port=port
    )  # fmt: skip


data = typer.Typer(no_args_is_help=True, help="Prepare and inspect image folders.", rich_markup_mode=None)


@data.command("align")
def align(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="Photographs, one folder a person.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="Where the aligned crops go.")],
    template: Annotated[Template, typer.Option(help="Alignment template.")] = Template.arcface,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one for each processor.")] = 0,
    face: Annotated[FacePolicy, typer.Option(help="Which one of several faces.")] = FacePolicy.central,
    crop_format: Annotated[
        CropFormat, typer.Option("--format", help="png is lossless, jpeg smaller.")
    ] = CropFormat.png,
    score_threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Lowest confidence of a detection.")] = 0.6,
    restart: Annotated[bool, typer.Option("--restart", help="Make every crop anew instead of going on.")] = False,
    detector: DetectorFile = None,
    as_json: Json = False,
) -> None:
    """Detect and align every photograph of a folder; goes on where an interrupted run stopped."""
    from rich.console import Console

    from training.align import REPORT_NAME, align_folder

    report = align_folder(
        source, target, detector=detector, template=template.value, workers=workers, face=face.value,
        crop_format=crop_format.value, score_threshold=score_threshold, resume=not restart,
        console=Console(stderr=True),
    )  # fmt: skip
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        typer.echo(
            f"{report.aligned:,} of {report.images:,} photographs of {report.people:,} people aligned "
            f"({report.images_per_second:.0f} a second); no face in {len(report.not_detected)}, "
            f"unreadable {len(report.unreadable)}, several faces in {len(report.several_faces)}; "
            f"see {target / REPORT_NAME}"
        )


@data.command("inspect")
def inspect(
    folder: Annotated[Path, typer.Argument(help="An image folder, one folder a person.")],
    as_json: Json = False,
) -> None:
    """Count people and pictures of a folder, and check that every picture can be read."""
    from training.data.inspect import inspect_folder

    found = inspect_folder(folder)
    if as_json:
        _print_json(found.model_dump(mode="json"))
    else:
        typer.echo(found.to_text())


def _detector(path: Path | None, aligned: bool) -> "Detector | None":
    from facemargin.preprocessing import Detector

    return None if aligned else Detector(path)


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content))


def _print_table(table: "Table") -> None:
    from rich.console import Console

    Console().print(table)
