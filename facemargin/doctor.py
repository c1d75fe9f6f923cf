"""``facemargin doctor``: what this machine has, and whether two image folders share people."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from packaging.requirements import Requirement

from facemargin import __version__
from facemargin.errors import DataError, ModelNotFoundError

State = Literal["ok", "missing", "problem"]
_SIGNS: dict[State, str] = {"ok": "ok", "missing": "--", "problem": "!!"}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        state: ok, missing (something optional is not there) or problem.
        detail: what was found, and what to do.
    """

    subject: str
    state: State
    detail: str


def environment() -> list[Finding]:
    """Python, packages of each extra, detector, processor and GPU as facemargin will use them."""
    findings = [
        Finding("facemargin", "ok", f"{__version__} on Python {platform.python_version()}, {os.cpu_count()} cores")
    ]
    findings += [_extra(extra) for extra in ("train", "serve")]
    findings.append(_detector())
    findings.append(_training_hardware())
    return findings


def _extra(extra: str) -> Finding:
    wanted = [Requirement(line) for line in requires("facemargin") or []]
    names = [req.name for req in wanted if req.marker is not None and req.marker.evaluate({"extra": extra})]
    absent = [name for name in names if not _installed(name)]
    if absent:
        return Finding(f"extra {extra}", "missing", f"no {', '.join(absent)}; pip install 'facemargin[{extra}]'")
    return Finding(f"extra {extra}", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _detector() -> Finding:
    from facemargin.models import locate

    try:
        return Finding("face detector", "ok", str(locate("yunet")))
    except ModelNotFoundError as error:
        return Finding("face detector", "missing", str(error))


def _training_hardware() -> Finding:
    try:
        import torch  # the whole point of this line is to say what torch sees
        import torchvision
    except ModuleNotFoundError:
        return Finding("training", "missing", "torch and torchvision are not installed")
    except RuntimeError as error:  # torchvision::nms does not exist
        return Finding(
            "training", "problem", f"torch and torchvision do not fit: {error}; install them together, by plain names"
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    fast = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if torch.cuda.is_available()
        else bool(probe and probe())
    )
    precision = "bfloat16" if fast else "float32"
    return Finding(
        "training", "ok", f"torch {torch.__version__}, torchvision {torchvision.__version__}: {precision} on {device}"
    )


def shared_people(train: Path, test: Path) -> list[str]:
    """Names that two image folders share, compared without case and with spaces, dots and hyphens as underscores.

    Raises:
        DataError: a folder does not exist.
    """
    names = [_names(folder) for folder in (train, test)]
    return sorted(names[0][key] for key in names[0].keys() & names[1].keys())


def _names(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist")
    people = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return {"".join("_" if sign in " .-" else sign for sign in name.casefold()): name for name in people}


def doctor(
    train: Annotated[Path | None, typer.Option(help="Image folder that a model was trained on.")] = None,
    test: Annotated[Path | None, typer.Option(help="Image folder that it will be tested on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report what this machine has; with --train and --test, whether the two folders share people by name."""
    findings = environment()
    if train is not None and test is not None:
        both = shared_people(train, test)
        shown = ", ".join(both[:5]) + (" …" if len(both) > 5 else "")
        findings.append(
            Finding("people", "problem", f"{len(both)} are in both folders: {shown}; a test on them proves nothing")
            if both
            else Finding("people", "ok", f"no name of {train} is in {test}")
        )
    elif train is not None or test is not None:
        raise DataError("--train and --test go together")
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        width = max(len(finding.subject) for finding in findings)
        typer.echo("\n".join(f"{_SIGNS[f.state]}  {f.subject:<{width}}  {f.detail}" for f in findings))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
