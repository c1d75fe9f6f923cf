"""The command ``facemargin embed``: parse, call, print. Heavy imports wait for the call."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.options import Aligned, Bundle, DetectorFile, Json, print_json

if TYPE_CHECKING:
    from training.bulk.job import Job
    from training.bulk.run import Run

_INTERRUPTED = 130
_MOST_BATCH = 64


class FaceOption(StrEnum):
    """Which faces of a photograph."""

    largest = "largest"
    all = "all"
    one = "one"


class FileFormatOption(StrEnum):
    """Files of the output."""

    parquet = "parquet"
    npy = "npy"


class DtypeOption(StrEnum):
    """Numbers of a stored vector."""

    float32 = "float32"
    float16 = "float16"


class ProviderOption(StrEnum):
    """Where the network runs."""

    cpu = "cpu"
    cuda = "cuda"


class OnErrorOption(StrEnum):
    """What a picture without an embedding does."""

    record = "record"
    fail = "fail"


def embed(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE",
            help="Image folders (nested as they like), WebDataset shards (a .tar, a folder of them, "
            "shard-{000..009}.tar), InsightFace .rec files, lists of files.",
        ),
    ],
    bundle: Bundle,
    output: Annotated[Path, typer.Option(help="Folder to write, new or empty; or one to go on with.")],
    aligned: Aligned = False,
    faces: Annotated[
        FaceOption,
        typer.Option(help="Of a photograph: the largest face, all of them, or one (several are then a failure)."),
    ] = FaceOption.largest,
    detector: DetectorFile = None,
    score_threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Lowest confidence of a detection.")] = 0.6,
    on_error: Annotated[
        OnErrorOption,
        typer.Option(help="A picture that cannot be read or has no face: record it and go on, or fail."),
    ] = OnErrorOption.record,
    to_format: Annotated[
        FileFormatOption, typer.Option(help="parquet, or npy: vectors as arrays, their rows as Parquet beside.")
    ] = FileFormatOption.parquet,
    dtype: Annotated[DtypeOption, typer.Option(help="Numbers of the stored vectors.")] = DtypeOption.float32,
    part_pictures: Annotated[
        int, typer.Option(min=1, help="Pictures a part; a killed run loses at most the part at hand.")
    ] = 4096,
    from_format: Annotated[
        str | None, typer.Option(help="Format of the sources (docs/data.md); by default guessed.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the paths of a list are relative to.")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Number of this process, from 0; by default as torchrun or srun says.")
    ] = None,
    world_size: Annotated[int | None, typer.Option(help="Processes that share the work.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Batches at a time; 0 takes one for each core.")] = 0,
    batch: Annotated[int, typer.Option(min=0, max=_MOST_BATCH, help="Pictures a batch; 0 takes 16, on CUDA 64.")] = 0,
    provider: Annotated[ProviderOption, typer.Option(help="Where the network runs.")] = ProviderOption.cpu,
    as_json: Json = False,
) -> None:
    """Embed every face of large sets of pictures, to Parquet or NumPy files; run again, it goes on where it stopped."""
    import cv2

    from training.bulk.job import Request, prepare
    from training.bulk.summary import summary, summary_lines

    request = Request(
        sources=tuple(sources), bundle=bundle, output=output, aligned=aligned, faces=faces.value, detector=detector,
        score_threshold=score_threshold, stop_at_failure=on_error is OnErrorOption.fail, to_format=to_format.value,
        dtype=dtype.value, part_pictures=part_pictures, from_format=from_format, root=root, rank=rank,
        world_size=world_size, threads=threads, batch=batch, provider=provider.value,
    )  # fmt: skip
    cv2.setNumThreads(1)  # each batch has a core, and no more
    try:
        job = prepare(request)
        run = _with_bar(job)
        manifest = job.output.finish()
        report = summary(job, run, manifest)
    except KeyboardInterrupt:
        typer.echo("interrupted; complete parts are kept, run the same command again to go on", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print_json(report)
    else:
        typer.echo("\n".join(summary_lines(report)))


def _with_bar(job: "Job") -> "Run":
    from rich.console import Console

    from training.bulk.progress import BulkProgress

    with BulkProgress(Console(stderr=True), job.pictures) as bar:
        return job.run(bar.show)
