"""The subcommands that need neither training nor the service: ``import``, ``models``, ``verify``.

Each parses, calls one library function and prints. Heavy imports are inside the functions, so that ``--help`` is quick.
"""

import json
from dataclasses import asdict
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from facemargin.errors import ConfigError

if TYPE_CHECKING:
    from facemargin.bundle import Bundle
    from facemargin.matching import Comparison
    from facemargin.preprocessing import Preprocessing


class Colour(StrEnum):
    """Order of the channels that a network expects."""

    rgb = "rgb"
    bgr = "bgr"


class FaceOption(StrEnum):
    """What to do with several faces in a photograph."""

    single = "single"
    largest = "largest"


models = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List and fetch the model files facemargin uses."
)


@models.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the models, where they come from and whether they are on this machine."""
    from facemargin.models import MODELS, models_folder

    rows = [asdict(model) | {"present": (models_folder() / model.filename).is_file()} for model in MODELS.values()]
    if as_json:
        typer.echo(json.dumps({"folder": str(models_folder()), "models": rows}))
        return
    table = Table("name", "here", "purpose", "licence", "from")
    for row in rows:
        table.add_row(row["name"], "yes" if row["present"] else "no", row["purpose"], row["licence"], row["url"])
    Console().print(table)
    typer.echo(f"folder: {models_folder()}")


@models.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="A name from `facemargin models list`.")],
    source: Annotated[Path | None, typer.Option("--from", help="Take this local copy instead of downloading.")] = None,
) -> None:
    """Fetch a model, check its hash and put it where facemargin finds it."""
    from facemargin.models import pull

    try:
        path = pull(name, source)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    typer.echo(f"{name}: {path}")


def verify(
    first: Annotated[Path, typer.Argument(help="A photograph (JPEG, PNG, WebP or BMP).")],
    second: Annotated[Path, typer.Argument(help="The photograph to compare it with.")],
    bundle: Annotated[Path, typer.Option(help="The bundle to use.")],
    detector: Annotated[
        Path | None, typer.Option(help="Face detector file; by default the one of `facemargin models pull yunet`.")
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Both pictures are aligned crops: detect nothing.")
    ] = False,
    face: Annotated[FaceOption, typer.Option(help="single: refuse several faces; largest: take the largest.")] = (
        FaceOption.single
    ),
    max_fmr: Annotated[float, typer.Option(help="Highest false match rate of a match.")] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether two photographs show the same person."""
    from facemargin.bundle import load_bundle
    from facemargin.embedder import Embedder
    from facemargin.matching import compare
    from facemargin.preprocessing import Detector, read_image

    if not 0 < max_fmr <= 1:
        raise ConfigError(f"--max-fmr must be above 0 and at most 1, got {max_fmr}")
    result = compare(
        read_image(first),
        read_image(second),
        Embedder(load_bundle(bundle)),
        detector=None if aligned else Detector(detector),
        face=face.value,
        max_fmr=max_fmr,
    )
    if as_json:
        decision = None if result.decision is None else asdict(result.decision)
        content = {"similarity": result.similarity, "model_id": result.model_id, "decision": decision}
        typer.echo(json.dumps(content))
    else:
        typer.echo("\n".join(_comparison_lines(result)))


def import_(
    model: Annotated[Path, typer.Argument(help="ONNX file; or .safetensors, .pt, .pth with --backbone.")],
    output: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    preset: Annotated[
        str, typer.Option(help="insightface, sphereface or opencv-sface; the options below overrule it.")
    ] = "",
    size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width of the input in pixels.")] = None,
    template: Annotated[str, typer.Option(help="Alignment template: arcface-112 or sphereface-112x96.")] = "",
    colour: Annotated[Colour | None, typer.Option(help="Order of the channels.")] = None,
    mean: Annotated[str, typer.Option(help="Subtracted from 0…255: one number, or three with commas.")] = "",
    std: Annotated[str, typer.Option(help="Divides then: one number, or three with commas.")] = "",
    flip_sum: Annotated[bool, typer.Option("--flip-sum", help="Add the output for the mirrored crop.")] = False,
    name: Annotated[str, typer.Option(help="Name of the bundle; by default that of the file.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "",
    card: Annotated[str, typer.Option(help="A short description: what for, trained on what, limits.")] = "",
    backbone: Annotated[str, typer.Option(help="Which backbone a torch checkpoint is of.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a bundle from a foreign ONNX model, or from torch weights of a known backbone."""
    fields: dict[str, Any] = {
        "preprocessing": _preprocessing(preset, size, template, colour, mean, std),
        "name": name,
        "licence": licence,
        "card": card,
        "flip_sum": flip_sum,
        "overwrite": overwrite,
    }
    bundle = _import(model, output, backbone, fields)
    manifest = bundle.manifest
    if as_json:
        content = {"path": str(bundle.path), "model_id": bundle.model_id, **manifest.model_dump(mode="json")}
        typer.echo(json.dumps(content))
        return
    typer.echo(f"{bundle.path}: {manifest.name}, {manifest.embedding_dim} numbers, opset {manifest.opset}")
    typer.echo(
        f"model id {bundle.model_id}; no calibration yet: `facemargin calibrate --bundle {bundle.path} --images DIR`"
    )


def _import(model: Path, output: Path, backbone: str, fields: dict[str, Any]) -> "Bundle":
    if model.suffix.lower() == ".onnx":
        from facemargin.importing import import_onnx

        if backbone:
            raise ConfigError("--backbone is for torch checkpoints; an ONNX file holds its network itself")
        return import_onnx(model, output, **fields)
    if not backbone:
        raise ConfigError(f"{model}: only .onnx files can be imported without --backbone NAME")
    [importer] = entry_points(
        group="facemargin.importers", name="checkpoint"
    )  # needs torch, so it is not the library's
    try:
        bundle: Bundle = importer.load()(model, output, backbone=backbone, **fields)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return bundle


def _preprocessing(
    preset: str, size: tuple[int, int] | None, template: str, colour: Colour | None, mean: str, std: str
) -> "Preprocessing":
    """The preset with what was given on the command line put over it; without a preset everything must be given."""
    from pydantic import ValidationError

    from facemargin.preprocessing import PRESETS, Preprocessing

    given = {
        "size": size,
        "template": template or None,
        "colour": None if colour is None else colour.value,
        "mean": _levels("--mean", mean),
        "std": _levels("--std", std),
    }
    if preset and preset not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing and not preset:
        raise ConfigError(
            f"say how the model wants its crops: --preset ({', '.join(PRESETS)}), or also {', '.join(missing)}"
        )
    base = PRESETS[preset].model_dump() if preset else {}
    try:
        return Preprocessing.model_validate(base | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["type"] == "value_error":  # our own validators name the field themselves
            raise ConfigError(problem["msg"].removeprefix("Value error, ")) from error
        raise ConfigError(f"--{problem['loc'][0]}: {problem['msg']}") from error


def _levels(option: str, text: str) -> float | tuple[float, ...] | None:
    if not text:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} must be one number, or three with commas; got {text!r}") from error
    if len(numbers) not in (1, 3):
        raise ConfigError(f"{option} must be one number, or three with commas; got {len(numbers)}")
    return numbers[0] if len(numbers) == 1 else numbers


def _comparison_lines(result: "Comparison") -> list[str]:
    lines = [f"similarity   {result.similarity:.4f} (model {result.model_id})"]
    decision = result.decision
    if decision is None:
        advice = "`facemargin calibrate` gives it one"
        return [*lines, f"no decision: the bundle has no calibration, so a similarity has no meaning yet; {advice}"]
    mark = {True: " (extrapolated)", False: ""}
    return [
        *lines,
        f"probability  {decision.probability:.4f} that it is one person, if {decision.prior:g} of such pairs are",
        f"fmr          {decision.fmr:.2e} of pairs of different people are as similar{mark[decision.fmr_extrapolated]}",
        f"decision     {'match' if decision.match else 'no match'} at fmr <= {decision.max_fmr:g}: "
        f"threshold {decision.threshold:.4f}{mark[decision.threshold_extrapolated]}",
    ]
