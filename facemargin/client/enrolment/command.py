"""The command ``facemargin enrol``: parse, call, print."""

import csv
import json
import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facemargin.client.clients import Client
from facemargin.client.enrolment.bulk import Enrolment, Failure, Manner, Summary, pause
from facemargin.client.enrolment.journal import Journal
from facemargin.client.enrolment.sources import COLUMNS, REPORTED, Source, read_source, shown
from facemargin.client.errors import NotFound
from facemargin.client.replies import Collection
from facemargin.client.requests import MinQuality
from facemargin.client.retrying import Retries
from facemargin.commands import FaceOption
from facemargin.errors import ConfigError, DataError

KEY_VARIABLE = "FACEMARGIN_API_KEY"
_INTERRUPTED = 130
_AT_FIRST = Retries(deadline=10.0)
"""A wrong address should be told at once."""
_LATER = Retries(deadline=300.0, longest_wait=5.0)
"""A service that restarts, or has too much to do, should not end a long run."""
_SHOWN = 5


def enrol(
    source: Annotated[
        Path, typer.Argument(help="A folder with one folder a person, or a CSV: image,name[,person_id][,expires_at].")
    ],
    collection: Annotated[str, typer.Option(help="Name of the collection to enrol into.")],
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    key_file: Annotated[
        Path | None, typer.Option(help=f"File that holds the API key; without it, the variable {KEY_VARIABLE}.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the collection if it is missing (scope admin).")
    ] = False,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The pictures are crops by the model's template: detect nothing.")
    ] = False,
    face: Annotated[FaceOption, typer.Option(help="single: refuse several faces; largest: take the largest.")] = (
        FaceOption.single
    ),
    min_quality: Annotated[
        str, typer.Option(help="""Refuse faces below, as JSON: '{"score": 0.8, "eye_distance_px": 30}'.""")
    ] = "{}",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Pictures sent at a time.")] = 4,
    journal: Annotated[
        Path | None, typer.Option(help="What was done, to go on from; by default beside the source.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Enrol a folder or a CSV of pictures into a running service; run again, it goes on where it was stopped."""
    manner = Manner(aligned, face.value, _quality(min_quality), workers)
    key = _key(key_file)
    found = read_source(source)
    stop = threading.Event()
    try:
        first = Client(url, key, retries=_AT_FIRST)
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from error
    with first, Client(url, key, retries=_LATER, sleep=pause(stop)) as client:
        target = _collection(first, collection, create=create)
        path = journal or _beside(source, target.name)
        about = {"collection": target.name, "created_at": target.created_at.isoformat()}
        with Journal(path, about) as record:
            run = Enrolment(client, target, record, manner, api_key=key, stop=stop)
            summary = _with_bar(run, found, quiet=as_json or not sys.stderr.isatty())
    listed = path.with_name(path.name.removesuffix(".jsonl") + "-failures.csv")
    _write_failures(listed, summary.failures)
    pending = len(found.entries) - summary.counts.total()
    if as_json:
        typer.echo(json.dumps(_report(target, found, summary, path, listed, pending)))
    else:
        typer.echo("\n".join(_lines(found, summary, listed, pending)))
    if summary.stopped == "interrupted":
        raise typer.Exit(_INTERRUPTED)
    if summary.failures or pending:
        raise typer.Exit(1)


def _key(file: Path | None) -> str | None:
    """The API key: never an option, which other users of the machine could see."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--key-file {file} cannot be read: {error}") from error
    if not key or not key.isprintable() or not key.isascii() or " " in key:
        raise ConfigError(f"--key-file {file} must hold one API key and nothing else")
    return key


def _quality(text: str) -> MinQuality | None:
    try:
        demanded = MinQuality.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise ConfigError(f"--min-quality: {where}{': ' if where else ''}{wrong['msg']}") from error
    return demanded if demanded.model_fields_set else None


def _collection(client: Client, name: str, *, create: bool) -> Collection:
    try:
        return client.collection(name)
    except NotFound as error:
        if not create:
            raise ConfigError(f"there is no collection '{name}' at {client.url}; --create makes it") from error
    return client.create_collection(name)


def _beside(source: Path, collection: str) -> Path:
    whole = source.resolve()
    return whole.with_name(f"{whole.name}.{collection}.enrol.jsonl")


def _with_bar(run: Enrolment, found: Source, *, quiet: bool) -> Summary:
    columns = (TextColumn("enrolling"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("", total=len(found.entries))

        def step(summary: Summary) -> None:
            failed = summary.counts["failed"]
            bar.update(task, completed=summary.counts.total(), description=f"{failed:,} failed" if failed else "")

        return run.run(found.entries, step)


def _write_failures(path: Path, failures: list[Failure]) -> None:
    """The failures as a CSV that can be enrolled again; a list of an earlier run goes."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow((*COLUMNS, *REPORTED))
            rows.writerows(sorted(_row(failure) for failure in failures))
        beside.replace(path)
    except OSError as error:
        raise DataError(f"the list of failures {path} cannot be written: {error.strerror}") from error


def _row(failure: Failure) -> tuple[str, ...]:
    person = failure.entry.person
    end = person.expires_at.isoformat() if person.expires_at is not None else ""
    image = str(failure.entry.image.resolve())
    return image, person.name, person.person_id or "", end, failure.problem, failure.reason


def _lines(found: Source, summary: Summary, listed: Path, pending: int) -> list[str]:
    counts = summary.counts
    lines = [
        f"{len(found.entries):,} pictures of {len({entry.person.identity for entry in found.entries}):,} people: "
        f"enrolled {counts['enrolled']:,}, enrolled before {counts['already']:,}, duplicates {counts['duplicate']:,}, "
        f"failed {counts['failed']:,}, not tried {pending:,}"
    ]
    lines += [f"failed: {item.entry.image}: {item.reason}" for item in summary.failures[:_SHOWN]]
    if summary.failures:
        lines.append(f"all failures: {listed} (mend the pictures, then enrol that file, or run the same command again)")
    if summary.resemblances:
        lines.append(f"{len(summary.resemblances):,} matches with somebody else, such as (all: --json):")
        lines += [f"  {image}: {detail}" for image, detail in summary.resemblances[:_SHOWN]]
    if found.ignored:
        lines.append(f"ignored {len(found.ignored):,} files that are no pictures of a person: {shown(found.ignored)}")
    if summary.stopped is not None:
        lines.append(f"stopped: {summary.stopped}; the same command goes on from here")
    return lines


def _report(
    target: Collection, found: Source, summary: Summary, path: Path, listed: Path, pending: int
) -> dict[str, object]:
    failures = [
        {"image": str(item.entry.image), "problem": item.problem, "reason": item.reason} for item in summary.failures
    ]
    return {
        "collection": target.name,
        "pictures": len(found.entries),
        "enrolled": summary.counts["enrolled"],
        "already": summary.counts["already"],
        "duplicates": summary.counts["duplicate"],
        "failed": summary.counts["failed"],
        "not_tried": pending,
        "failures": failures,
        "failures_file": str(listed) if failures else None,
        "resemblances": [{"image": image, "detail": detail} for image, detail in summary.resemblances],
        "ignored": [str(file) for file in found.ignored],
        "journal": str(path),
        "stopped": summary.stopped,
    }
