"""Options and output that several commands share. Owns no command."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facemargin.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from facemargin.preprocessing import Detector
    from training.config import TrainConfig


class OnFault(StrEnum):
    """What a picture that is missing or cannot be read does: end the command, or be left out and counted."""

    fail = "fail"
    skip = "skip"


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
    list[Path] | None,
    typer.Option("--data", help="Image folder, or a data set in another format; may be given several times."),
]
PairsFile = Annotated[Path | None, typer.Option("--pairs", help="LFW's pairs.txt, for protocol lfw-open.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
Workers = Annotated[int | None, typer.Option(help="Loader processes.")]
Bundle = Annotated[Path, typer.Option("--bundle", help="The bundle's folder.")]


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    if value is None or value == []:
        return
    *tables, name = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[name] = value


def resolve_config(path: Path | None, resume: bool, **flags: Any) -> "TrainConfig":
    """The config of a call: the file, or a resumed run's own, with flags (``table__key``) laid over it."""
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


def detector_of(path: Path | None, aligned: bool) -> "Detector | None":
    """The detector to use; None for crops that are aligned."""
    from facemargin.preprocessing import Detector

    return None if aligned else Detector(path)


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(content))


def print_table(table: "Table") -> None:
    """A table on stdout."""
    from rich.console import Console

    Console().print(table)
