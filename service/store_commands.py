"""The commands ``audit``, ``encryption``, ``store``, ``backup`` and ``restore``: parse, call, print."""

import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facemargin.errors import ConfigError

if TYPE_CHECKING:
    from service.store import Store


StoreOption = Annotated[
    str,
    typer.Option(
        help="Folder of the service's database, or postgresql://user@host/database.", envvar="FACEMARGIN_STORE"
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        help="File with the master key; FACEMARGIN_MASTER_KEY may hold the key itself instead.",
        envvar="FACEMARGIN_MASTER_KEY_FILE",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

audit = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Check and show the log of erasures."
)
encryption = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Encrypt a store, or change its master key."
)
store = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Move a store, or write it anew."
)
_LOCATION = "A folder, or postgresql://user@host/database."


@audit.command("verify")
def verify(
    store: StoreOption,
    receipt: Annotated[
        list[str],
        typer.Option("--receipt", help="A deletion's receipt, or a head printed earlier, that must be in it."),
    ] = [],  # noqa: B006 - typer copies it
    as_json: JsonOption = False,
) -> None:
    """Recompute the chain of the audit log and look for receipts in it; exit code 1 where something is wrong."""
    from service.store.audit import Receipt, check_log

    receipts = [Receipt.parse(text) for text in receipt]
    with _opened(store) as opened, opened.read() as session:
        verdict = check_log(session, receipts)
    head = verdict.head.receipt if verdict.head is not None else None
    if as_json:
        typer.echo(json.dumps({"records": verdict.count, "head": head, "faults": verdict.faults}))
    else:
        lines = [f"{verdict.count} records, head {head or 'none'}", *(f"fault: {fault}" for fault in verdict.faults)]
        typer.echo("\n".join(lines))
    raise typer.Exit(1 if verdict.faults else 0)


@audit.command("show")
def show(
    store: StoreOption,
    person: Annotated[
        str | None, typer.Option(help="Only what concerns this id of a person or face; needs the master key, if any.")
    ] = None,
    master_key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the records of the audit log, the oldest first."""
    from service.store.audit import records, records_of

    with _opened(store) as opened:
        if person is not None:
            opened.unlock(given_master_key(master_key_file))
        with opened.read() as session:
            found = [record.as_json() for record in (records_of(session, person) if person else records(session))]
    if as_json:
        typer.echo(json.dumps({"records": found}))
        return
    for record in found:
        about = " ".join(f"{name} {record[name]}" for name in ("collection", "person", "face") if record[name])
        typer.echo(f"{record['seq']}  {record['at']}  {record['event']}  {about}  by {record['actor']}")
    if not found:
        typer.echo("no records", err=True)


@audit.command("export")
def export(
    store: StoreOption,
    output: Annotated[Path, typer.Option(help="The ledger to make: one JSON object per line.")],
) -> None:
    """Write the audit log to a file, as the erasure ledger that `facemargin restore` takes."""
    from service.ledger import export_ledger

    with _opened(store) as opened:
        count = export_ledger(opened, output)
    typer.echo(f"{count} records in {output}")


@encryption.command("new-key")
def new_key(file: Annotated[Path, typer.Argument(help="The file to make, readable by its owner only.")]) -> None:
    """Write a new master key to a file that is not there yet."""
    from service.store.vault import KEY_BYTES

    try:
        _write_key(file, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
    except OSError as error:
        raise ConfigError(f"the master key file {file} cannot be made: {error.strerror}") from error
    typer.echo(f"{file} holds a new master key. Keep a copy apart from the store: without it nothing can be decrypted.")


def _write_key(file: Path, text: bytes) -> None:
    """A new file with a key, on the disk when this returns; or none."""
    from facemargin.flushing import flush, flush_path

    number = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(number, "wb") as opened:
            opened.write(text)
            flush(opened)
        flush_path(file.absolute().parent)
    except OSError:
        file.unlink()
        raise


@encryption.command("status")
def status(store: StoreOption, as_json: JsonOption = False) -> None:
    """Say whether a store is encrypted, and which master key it needs."""
    from service.store.encryption import describe

    with _opened(store) as opened, opened.read() as session:
        found = describe(session)
    if as_json:
        typer.echo(json.dumps(found))
    elif found["encrypted"]:
        typer.echo(f"encrypted under master key {found['master_key_id']}; {found['people']} people")
    else:
        typer.echo(f"not encrypted; {found['people']} people")
    if found["compaction_due"] and not as_json:
        typer.echo("Its file still holds old rows: start the service, or give the last command again.", err=True)


@encryption.command("enable")
def enable(
    store: StoreOption,
    key_file: Annotated[Path, typer.Option(help="File with the master key to encrypt under.")],
    allow_plaintext_index: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext-index",
            help="Leave templates in an index outside that holds them in the clear.",
            envvar="FACEMARGIN_ALLOW_PLAINTEXT_INDEX",
        ),
    ] = False,
) -> None:
    """Encrypt the templates and crops of a store that no service is using."""
    from service.store.vault import read_master_key

    done = "people encrypted; start the service with this master key"
    _change(store, None, read_master_key(key_file), done, allow_plaintext_index=allow_plaintext_index)


@encryption.command("rotate")
def rotate(
    store: StoreOption,
    old_key_file: Annotated[Path, typer.Option(help="File with the master key that the store needs now.")],
    new_key_file: Annotated[Path, typer.Option(help="File with the master key that it shall need.")],
) -> None:
    """Change the master key of a store that no service is using; the old key opens nothing of it afterwards."""
    from service.store.vault import read_master_key

    old, new = read_master_key(old_key_file), read_master_key(new_key_file)
    if old == new:
        raise ConfigError(f"{old_key_file} and {new_key_file} hold the same key")
    _change(store, old, new, "people under the new master key; backups made before still need the old one")


@encryption.command("disable")
def disable(
    store: StoreOption,
    key_file: Annotated[Path, typer.Option(help="File with the master key that the store needs now.")],
) -> None:
    """Decrypt a store that no service is using."""
    from service.store.vault import read_master_key

    _change(store, read_master_key(key_file), None, "people decrypted; templates are in the clear now")


@store.command("move")
def move(
    source: Annotated[str, typer.Option("--from", help=f"Where the store is. {_LOCATION}")],
    target: Annotated[str, typer.Option("--to", help=f"Where it shall be, and none is yet. {_LOCATION}")],
    as_json: JsonOption = False,
) -> None:
    """Copy a store that no service is using to another place: from SQLite to PostgreSQL, back, or within a kind.

    Every row is read back and compared before it counts; what is encrypted stays so, and no master key is needed.
    Killed at any moment, the target holds nothing, or everything. The source stays as it is: start the service on the
    target, and then delete the source yourself, since it holds people who may be erased later.
    """
    from service.move import move as moved_to
    from service.store import parse_location
    from service.store.location import described

    here, there = parse_location(source), parse_location(target)
    done = moved_to(here, there, _rows_shown())
    if as_json:
        typer.echo(json.dumps({"counts": done.counts, "audit_head": done.audit_head}))
        return
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in done.counts.items())
    typer.echo(f"{described(there)}: {counts}; audit head {done.audit_head or 'none'}; compared")
    typer.echo(
        f"{described(here)} is as it was: delete it when the service runs on the new one, and start none on it.",
        err=True,
    )


@store.command("compact")
def compact(store: StoreOption) -> None:
    """Write a store anew, so that nothing of deleted rows is left in its tables.

    On PostgreSQL also while it is served: requests wait for the table that is being written. A store in a folder is
    compacted while no service is using it, and hardly ever needs it: deletions leave its files by themselves.
    """

    with _opened(store) as opened:
        if not opened.shared:
            opened.claim(alone=True)
        opened.compact()
        typer.echo(f"{opened.name}: nothing of deleted rows is left in its tables")


def backup(
    store: StoreOption,
    output: Annotated[Path, typer.Option(help="The file to make; it must not be there yet.")],
    as_json: JsonOption = False,
) -> None:
    """Back up a store, also while it is served; the master key is not in it."""
    from service.backup import back_up

    manifest = back_up(store, output)
    if as_json:
        typer.echo(manifest.model_dump_json())
    else:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in manifest.counts.items())
        typer.echo(f"{output}: {counts}; audit head {manifest.audit_head or 'none'}; checked")
    if not manifest.encrypted:
        typer.echo("The store is not encrypted, so the backup holds templates in the clear: protect it.", err=True)


def restore(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    store: Annotated[
        str,
        typer.Option(
            help="Store to make: a folder, or postgresql://user@host/database of an empty database.",
            envvar="FACEMARGIN_STORE",
        ),
    ],
    erasures: Annotated[
        str | None,
        typer.Option(help="The erasure ledger, or the store served last; a replaced store counts too."),
    ] = None,
    without_ledger: Annotated[
        bool, typer.Option("--without-ledger", help="Restore although whoever was erased since comes back.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Give up the store that is there.")] = False,
    master_key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a store of a backup; whoever was erased after it stays erased."""
    from service.restore import restore as restored_from
    from service.store import parse_location
    from service.store.location import described

    location = parse_location(store)
    done = restored_from(
        file,
        location,
        master=given_master_key(master_key_file),
        erasures=parse_location(erasures) if erasures is not None else None,
        without_ledger=without_ledger,
        replace=replace,
    )
    counts = {"erased": done.erased, "revoked": done.revoked}
    if as_json:
        typer.echo(json.dumps({"counts": done.manifest.counts, **counts, "audit_head": done.audit_head}))
        return
    typer.echo(
        f"{described(location)}: the state of {done.manifest.created_at.isoformat()}, {done.erased} erased again, "
        f"{done.revoked} keys revoked again; audit head {done.audit_head}"
    )
    if done.unread is not None:
        typer.echo(f"What the replaced store knew of erasures and revoked keys is not in it: {done.unread}", err=True)
    if without_ledger:
        typer.echo("Whoever was erased after the backup is in the store again: erase them again.", err=True)


def given_master_key(file: Path | None) -> bytes | None:
    """The master key of a file or of the environment, as the service would take it; None where there is none."""
    from service.store.vault import parse_master_key, read_master_key

    text = os.environ.get("FACEMARGIN_MASTER_KEY")
    if file is not None:
        return read_master_key(file)
    return parse_master_key(text, "FACEMARGIN_MASTER_KEY") if text else None


@contextlib.contextmanager
def _opened(location: str) -> Iterator["Store"]:
    """A store that is there; what its database refuses is one line, whatever it is asked."""
    from service.backup import failing_as
    from service.store import Store, parse_location
    from service.store.location import described

    with failing_as(f"the store {described(parse_location(location))} fails"), Store(location, create=False) as store:
        yield store


def _change(
    location: str, old: bytes | None, new: bytes | None, done: str, *, allow_plaintext_index: bool = False
) -> None:
    from service.store.encryption import change_encryption

    with _opened(location) as store:
        store.claim(alone=True)
        _unlock(store, old, new)
        count = change_encryption(store, new, _progress(), allow_plaintext_index=allow_plaintext_index)
    typer.echo(f"{count} {done}")


def _unlock(store: "Store", old: bytes | None, new: bytes | None) -> None:
    """Unlock with the key of before, or with that of after where an earlier run was killed before it had cleaned up."""
    from service.errors import StoreError

    try:
        store.unlock(old)
    except StoreError:
        try:
            store.unlock(new)
        except StoreError:
            store.unlock(old)


def _progress() -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done} of {total} people", err=True, nl=done == total)

    return show


def _rows_shown() -> Callable[[str, int], None]:
    def show(table: str, rows: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r\x1b[K{table}: {rows} rows", err=True, nl=False)

    return show
