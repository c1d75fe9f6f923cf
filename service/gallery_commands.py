"""The command ``gallery``: parse, call, print."""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facemargin.errors import ConfigError
from service.store_commands import JsonOption, KeyFileOption, StoreOption, given_master_key

if TYPE_CHECKING:
    from service.gallery_move import Moved
    from service.store import Store

_LOCK = "gallery move"

gallery = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Move the search indexes to another engine."
)


@gallery.callback()
def _root() -> None:
    """Move the search indexes to another engine."""


@gallery.command("move")
def move(
    store: StoreOption,
    source: Annotated[str, typer.Option("--from", help="URL of the engine that the service uses, or used.")],
    target: Annotated[
        str, typer.Option("--to", help="URL of the engine to fill: pgvector:, milvus://host:19530, faiss:")
    ],
    templates: Annotated[
        Literal["best", "mean"],
        typer.Option(help="As the service has it.", envvar="FACEMARGIN_TEMPLATES"),
    ] = "best",
    master_key_file: KeyFileOption = None,
    allow_plaintext_index: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext-index",
            help="Put templates of an encrypted store into an engine that holds them in the clear.",
            envvar="FACEMARGIN_ALLOW_PLAINTEXT_INDEX",
        ),
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Then drop the indexes of this store from the engine --from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fill another search engine from the store and compare; a service may go on meanwhile. Killed, give it again."""
    from facemargin.index.engines import shown
    from service.galleries import open_engine_of
    from service.gallery_move import Move
    from service.store import Store
    from service.store.followed import note_in_clear, serve_index

    with Store(store, create=False) as opened:
        opened.unlock(given_master_key(master_key_file))
        with (
            closing(open_engine_of(target, opened, allow_plaintext=allow_plaintext_index)) as engine,
            closing(open_engine_of(source, opened, allow_plaintext=True)) as old,
        ):
            if drop and old.place == engine.place:
                raise ConfigError("--drop would drop what --to has just been given: --from and --to are the same")
            alone = _claimed(opened)
            running = None if alone else _served(opened)
            if drop and running == old.place:
                raise ConfigError(f"a service is searching {running}; give --drop when it is on {shown(target)}")
            filling = Move(opened, engine, templates=templates, progress=_progress(sys.stderr.isatty()))
            moved = filling.moved
            there = running == engine.place
            if engine.durable and not there:
                note_in_clear(opened, engine.place, there=True)
                moved = _alone(opened, filling.run)
                if alone:
                    serve_index(opened, engine.place)
            dropped = 0
            if drop and old.durable:
                dropped = Move(opened, old, templates=templates, progress=_progress(False)).drop()
                note_in_clear(opened, old.place, there=False)
    _print(moved, shown(target), dropped, as_json=as_json, filled=engine.durable, there=there)


def _claimed(store: "Store") -> bool:
    """Whether nobody else is on the store; then nobody comes until the command ends."""
    from service.errors import StoreError

    try:
        store.claim(alone=True)
    except StoreError:
        return False
    return True


def _served(store: "Store") -> str | None:
    from service.store.followed import served_index

    with store.read() as session:
        return served_index(session)


def _alone(store: "Store", run: "Callable[[], Moved]") -> "Moved":
    """Run while no other such command does."""
    from service.store.locks import locks_of

    locks = locks_of(store)
    if not locks.acquire(_LOCK):
        raise ConfigError("another `facemargin gallery move` is at work on this store; wait for it")
    try:
        return run()
    finally:
        locks.release(_LOCK)


def _print(moved: "Moved", url: str, dropped: int, *, as_json: bool, filled: bool, there: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(moved) | {"dropped": dropped}))
        return
    if there:
        typer.echo(f"a service is on {url} already and keeps it up to date; nothing was filled")
    elif not filled:
        typer.echo(f"{url} is in memory and filled from the store whenever a service starts: nothing to fill")
    else:
        typer.echo(
            f"{url}: {moved.entries} entries of {moved.collections} collections, counts and checksums as in the store; "
            f"{moved.added} added, {moved.removed} removed, {moved.replaced} replaced"
        )
    if dropped:
        typer.echo(f"{dropped} indexes dropped from the engine before")
    if not there:
        typer.echo(f"Set FACEMARGIN_INDEX={url} and start the service anew; it takes over what is written until then.")


def _progress(shown: bool) -> "Callable[[int, int], None]":
    def show(done: int, total: int) -> None:
        if shown:
            typer.echo(f"\r{min(done, total)} of {total} entries", err=True, nl=done >= total)

    return show
