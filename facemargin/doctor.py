"""``facemargin doctor``: what this machine has, and what is wrong with data sets, a bundle or a run's config.

Owns the command, the form of a finding and the checks of the environment and of a bundle's files. The checks of data
come from the entry-point group `CHECKS_GROUP`, so that the library does not know the training package.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from packaging.requirements import Requirement

from facemargin import __version__
from facemargin.bundle import Bundle, load_bundle
from facemargin.errors import BundleError, ConfigError, DataError, MissingExtraError, ModelNotFoundError

State = Literal["ok", "note", "missing", "problem"]

CHECKS_GROUP = "facemargin.doctor"
"""Entry points that take a `Request` and return findings."""

DEFAULT_SAMPLE = 20_000
"""Pictures read of each data set unless the user says otherwise."""

_SIGNS: dict[State, str] = {"ok": "ok", "note": " i", "missing": "--", "problem": "!!"}
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        subject: what was looked at.
        state: ok; note (worth knowing, nothing to repair at once); missing (something optional is not there, so that
            nothing can be said); problem (a result built on this would be wrong).
        detail: what was found, with counts.
        advice: what to do; empty where there is nothing to do.
        names: everything concerned: people, pictures, pairs.
    """

    subject: str
    state: State
    detail: str
    advice: str = ""
    names: tuple[str, ...] = ()

    def to_text(self, width: int) -> str:
        """A line, then the first names and the advice on lines of their own; the subject is padded to `width`."""
        indent = "\n" + " " * (width + 6)
        text = f"{_SIGNS[self.state]}  {self.subject:<{width}}  {self.detail}"
        if self.names:
            more = len(self.names) - _NAMES_SHOWN
            text += indent + "; ".join(self.names[:_NAMES_SHOWN]) + (f"; and {more:,} more" if more > 0 else "")
        return text + (f"{indent}-> {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Request:
    """What the user wants examined.

    Attributes:
        data: data sets, each looked at for itself.
        train: a training set, or None.
        test: the set it is tested on, or None; must share nobody with the training set.
        bundle: a loaded bundle, or None.
        config: a run's TOML file, or None.
        sample: pictures read of each data set; 0 reads all.
    """

    data: tuple[Path, ...] = ()
    train: Path | None = None
    test: Path | None = None
    bundle: Bundle | None = None
    config: Path | None = None
    sample: int = DEFAULT_SAMPLE

    @property
    def of_data(self) -> bool:
        """Whether any data set is to be looked at."""
        return bool(self.data or self.train or self.test or self.config)


def environment() -> list[Finding]:
    """Python, packages of each extra, detector, processor and GPU as facemargin will use them."""
    findings = [
        Finding("facemargin", "ok", f"{__version__} on Python {platform.python_version()}, {os.cpu_count()} cores")
    ]
    findings += [_extra(extra) for extra in ("train", "serve", "client")]
    findings.append(_detector())
    findings.append(_training_hardware())
    findings.append(_data_checks())
    return findings


def _extra(extra: str) -> Finding:
    wanted = [Requirement(line) for line in requires("facemargin") or []]
    names = [req.name for req in wanted if req.marker is not None and req.marker.evaluate({"extra": extra})]
    absent = [name for name in names if not _installed(name)]
    if absent:
        return Finding(f"extra {extra}", "missing", f"no {', '.join(absent)}", f"pip install 'facemargin[{extra}]'")
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
            "training", "problem", f"torch and torchvision do not fit: {error}", "install them together, by plain names"
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


def _data_checks() -> Finding:
    try:
        names = [entry.name for entry in entry_points(group=CHECKS_GROUP) if entry.load()]
    except ModuleNotFoundError as error:
        return Finding(
            "data checks", "missing", f"they need the package '{error.name}'", "pip install 'facemargin[train]'"
        )
    if not names:
        return Finding("data checks", "missing", "none are installed", "pip install 'facemargin[train]'")
    return Finding("data checks", "ok", "give --data, --train and --test, --bundle or --config to run them")


def bundle_files(path: Path) -> tuple[Bundle | None, list[Finding]]:
    """The bundle, where it is whole, and what there is to say about its files and its calibration.

    Raises:
        BundleError: there is no folder of that name.
    """
    if not path.is_dir():
        load_bundle(path)  # says what is wrong with the path
    try:
        bundle = load_bundle(path)
    except BundleError as error:
        return None, [Finding("bundle", "problem", str(error))]
    detail = f"{bundle.manifest.name}: {len(bundle.manifest.files)} files, every SHA-256 as the manifest says"
    findings = [Finding("bundle", "ok", detail)]
    if bundle.manifest.calibration is None:
        advice = f"facemargin calibrate --bundle {path} --images DIR, with people of neither training nor test"
        findings.append(Finding("calibration", "note", "the bundle has none: no threshold has a known FMR", advice))
    return bundle, findings


def examine_data(request: Request) -> list[Finding]:
    """Every installed check of data on this request.

    Raises:
        MissingExtraError: the checks, or packages they need, are not installed.
        FacemarginError: a path of the request cannot be used.
    """
    findings: list[Finding] = []
    entries = entry_points(group=CHECKS_GROUP)
    if not entries:
        raise MissingExtraError("doctor", "train", "training")
    for entry in entries:
        try:
            check: Callable[[Request], Iterable[Finding]] = entry.load()
            findings += check(request)
        except ModuleNotFoundError as error:
            raise MissingExtraError("doctor", "train", error.name or "?") from error
    return findings


def doctor(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Data set to look at for itself, in any format; may be given several times."),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Data set that a model is trained on.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Data set that it is tested on; must share nobody with --train.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle to check, and to look at the data sets with.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's TOML file: its training, validation and test sets.")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Pictures read of each data set, whole people at random; 0 reads all.")
    ] = DEFAULT_SAMPLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report what this machine has, and what is wrong with data sets, a bundle or a run's config; exit code 1 if so."""
    if (train is None) != (test is None):
        raise DataError("--train and --test go together")
    if config is not None and train is not None:
        raise ConfigError("--config names its own data sets; leave out --train and --test, or --config")
    findings = environment()
    loaded = None
    if bundle is not None:
        loaded, about = bundle_files(bundle)
        findings += about
    request = Request(tuple(data or ()), train, test, loaded, config, sample)
    if request.of_data:
        findings += examine_data(request)
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        width = max(len(finding.subject) for finding in findings)
        typer.echo("\n".join(finding.to_text(width) for finding in findings))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
