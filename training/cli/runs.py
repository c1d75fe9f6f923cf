"""Training and exporting. Each command parses, calls one library function, and prints."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facemargin.errors import ConfigError, FacemarginError
from training.cli.options import (
    ConfigFile,
    Epochs,
    Folders,
    Json,
    PairsFile,
    Workers,
    print_json,
    resolve_config,
)

if TYPE_CHECKING:
    from training.trainer import TrainResult


class Quantization(StrEnum):
    """Number formats that a bundle can be reduced to."""

    int8 = "int8"


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
        Path | None, typer.Option(help="Run, checkpoint or bundle whose weights a new run starts with.")
    ] = None,
    reset_head: Annotated[
        bool, typer.Option("--reset-head", help="Of --start-from take the backbone alone: for other people.")
    ] = False,
    freeze: Annotated[
        str | None,
        typer.Option(help="Parts of the backbone to keep as they are: names such as stem,stage1, or how many."),
    ] = None,
    freeze_epochs: Annotated[int | None, typer.Option(help="Epochs after which frozen parts train as well.")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor of the learning rate from each part to the one before it, up to 1.")
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Keep a moving average of the weights; validate and export that.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="iresnet18/34/50/100, mobilefacenet or sphereface20.")] = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, of all processes together.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts that each process computes its images of a step in, to need less memory.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the top of the schedule.")] = None,
    pairs: PairsFile = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    workers: Workers = None,
    on_bad_image: Annotated[
        str | None, typer.Option(help="A picture that cannot be read: fail ends the run, skip leaves it out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a face embedding under a loss head; flags win over the config file."""
    resolved = resolve_config(
        config, resume, head=head, partition=partition, start_from=start_from, reset_head=reset_head or None,
        freeze=None if freeze is None else parts_of(freeze), freeze_epochs=freeze_epochs,
        optimizer__layer_decay=layer_decay, ema_decay=ema_decay, data__folders=data, output=output, seed=seed,
        backbone__name=backbone, epochs=epochs, batch_size=batch_size, accumulate=accumulate,
        optimizer__learning_rate=learning_rate, data__pairs=pairs, device=device, precision=precision,
        data__workers=workers, data__on_bad_image=on_bad_image,
    )  # fmt: skip
    from training.ranks import launched
    from training.trainer import train as run

    first = launched().is_first
    try:
        result = run(resolved, resume=resume)
    except FacemarginError:
        if first:
            raise
        raise typer.Exit(2) from None  # the first process says it for all
    if first:
        _say_how_it_ended(result, resolved.output, as_json=as_json)
    if not result.finished:
        raise typer.Exit(130)


def _say_how_it_ended(result: "TrainResult", output: Path, *, as_json: bool) -> None:
    last = result.history.validation[-1] if result.history.validation else None
    if as_json:
        fields = ("step", "finished", "loss", "people", "images", "hardware", "precision")
        content = {name: getattr(result, name) for name in fields}
        print_json(
            content
            | {"checkpoint": str(result.checkpoint), "minutes": result.history.seconds / 60, "validation": last}
            | {"unreadable": result.history.unreadable}
        )
    else:
        minutes = result.history.seconds / 60
        loss = "none" if result.loss is None else f"{result.loss:.4f}"
        typer.echo(f"{result.step:,} steps in {minutes:.1f} min, loss {loss}; checkpoint {result.checkpoint}")
        if result.finished:
            typer.echo(f"next: facemargin export --run {output} --output BUNDLE")


def export(
    run: Annotated[
        Path,
        typer.Option(
            help="A run's output folder (its newest checkpoint), a checkpoint folder, or with --quantize a bundle."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The bundle's folder.")],
    crops: Annotated[
        Path | None, typer.Option(help="Folder of aligned crops for the parity check; the training images by default.")
    ] = None,
    quantize: Annotated[
        Quantization | None, typer.Option(help="int8: weights and activations of 8 bits; a model of its own.")
    ] = None,
    calibration_images: Annotated[
        Path | None,
        typer.Option(
            help="With --quantize: a folder a person of aligned crops, people the model was not trained on; they set "
            "the ranges of values and the bundle's thresholds."
        ),
    ] = None,
    no_average: Annotated[
        bool, typer.Option("--no-average", help="Take the last step's weights where the run kept an average.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name in the manifest.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights, such as an SPDX identifier.")] = "",
    flip_sum: Annotated[
        bool, typer.Option("--flip-sum", help="Embeddings add the mirrored crop (twice the time).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is already there.")] = False,
    as_json: Json = False,
) -> None:
    """Export a trained model as a bundle, after checking that ONNX Runtime agrees with PyTorch."""
    if quantize is not None:
        from training.publish_int8 import publish_int8

        options: dict[str, Any] = {"average": False} if no_average else {}
        options |= {key: value for key, value in (("name", name), ("licence", licence)) if value}
        options |= {"flip_sum": True} if flip_sum else {}
        bundle = publish_int8(
            run, output, crops=crops, calibration_images=calibration_images, overwrite=overwrite, **options
        )
    elif calibration_images is not None:
        raise ConfigError("--calibration-images goes with --quantize; `facemargin calibrate` is for any bundle")
    else:
        from training.publish import publish

        bundle = publish(
            run, output, crops=crops, average=not no_average, name=name, licence=licence, flip_sum=flip_sum,
            overwrite=overwrite,
        )  # fmt: skip
    if as_json:
        print_json({"bundle": str(bundle.path), "model_id": bundle.model_id, "name": bundle.manifest.name})
    else:
        typer.echo(f"{bundle.path}: {bundle.manifest.name}, model {bundle.model_id}")
        if bundle.manifest.calibration is None:
            typer.echo(f"next: facemargin calibrate --bundle {bundle.path} --images DIR")


def parts_of(text: str) -> int | list[str]:
    """``--freeze``: a number, or names between commas."""
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",") if name.strip()]
