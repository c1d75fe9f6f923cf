"""Preparing and inspecting data sets."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from training.cli.options import (
    DetectorFile,
    Json,
    OnFault,
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


Root = Annotated[Path | None, typer.Option(help="Folder that the paths of a list are relative to.")]

data = typer.Typer(no_args_is_help=True, help="Prepare, convert and inspect data sets.", rich_markup_mode=None)


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
    path: Annotated[Path, typer.Argument(help="An image folder, or a data set in another format.")],
    data_format: Annotated[
        str | None, typer.Option("--format", help="Format (docs/data.md); by default guessed.")
    ] = None,
    root: Root = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Look at so many pictures, drawn at random.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw some people with their pictures to this PNG file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random choices.")] = 0,
    as_json: Json = False,
) -> None:
    """Count people and pictures, check that every picture can be read, and show what the pictures are like."""
    from training.data.inspect import inspect_data

    found = inspect_data(path, format=data_format, root=root, sample=sample, seed=seed, sheet=sheet)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        typer.echo(found.to_text())


@data.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="An image folder, or a data set in another format.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="File or folder to write; its name tells the format.")],
    from_format: Annotated[str | None, typer.Option(help="Format of FROM (docs/data.md); by default guessed.")] = None,
    to_format: Annotated[str | None, typer.Option(help="Format of TO; by default guessed by its name.")] = None,
    root: Root = None,
    shard_pictures: Annotated[int, typer.Option(min=1, help="Pictures a WebDataset shard.")] = 10_000,
    on_bad: Annotated[OnFault, typer.Option(help="What a picture that cannot be read does.")] = OnFault.fail,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at TO.")] = False,
    as_json: Json = False,
) -> None:
    """Write a data set in another format; the bytes of the pictures stay as they are."""
    from training.data.formats.convert import convert as convert_data

    done = convert_data(
        source, target, from_format=from_format, to_format=to_format,
        root=root, shard_pictures=shard_pictures, on_bad=on_bad.value, overwrite=overwrite,
    )  # fmt: skip
    if as_json:
        print_json(done.model_dump(mode="json"))
    else:
        typer.echo(done.to_text())


@data.command("pairs")
def pairs(
    source: Annotated[Path, typer.Argument(metavar="FROM_PAIRS", help="A list of pairs; of CFP, its folder Protocol.")],
    target: Annotated[Path, typer.Argument(metavar="TO.bin", help="The .bin file to write.")],
    images: Annotated[Path, typer.Option(help="Folder of the aligned crops that the list names.")],
    protocol: Annotated[
        str | None, typer.Option(help="lfw, cfp-ff, cfp-fp, agedb, calfw, cplfw or pairs; else told from the list.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave pairs of missing crops out, and say how many.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the pairs of a protocol as an evaluation set in InsightFace's .bin form."""
    from training.data.protocols import Source, convert_to_bin, load_pairs

    found = load_pairs(
        protocol, Source(images=images, pairs=source, aligned=True, missing="skip" if skip_missing else "fail")
    )
    written = convert_to_bin(found, target)
    if as_json:
        print_json(written.model_dump(mode="json"))
    else:
        typer.echo(f"{target}: {written.text}")
