"""Preparing and inspecting data sets."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from training.cli.options import (
    DetectorFile,
    Json,
    print_json,
)


class Template(StrEnum):
    """Alignment templates."""

    arcface = "arcface-112"
    sphereface = "sphereface-112x96"


class FacePolicy(StrEnum):
    """Which one of several faces."""

    central = "central"
    largest = "largest"


class CropFormat(StrEnum):
    """File format of aligned crops."""

    png = "png"
    jpeg = "jpeg"


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
        print_json(report.model_dump(mode="json"))
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
        print_json(found.model_dump(mode="json"))
    else:
        typer.echo(found.to_text())
