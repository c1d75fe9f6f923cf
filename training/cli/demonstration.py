"""The whole system once."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.options import (
    DetectorFile,
    Json,
)


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
    from training.ranks import refuse_several_processes

    refuse_several_processes("demo")
    run_demo(
        data=data, output=output, keep=keep, json_output=as_json, detector=detector, quick=quick, seed=seed, port=port
    )  # fmt: skip
