"""The commands ``serve`` and ``keys``: parse, call, print. Heavy imports happen when a command runs."""

import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facemargin.errors import ConfigError

if TYPE_CHECKING:
    from service.context import Service
    from service.models import Model
    from service.store import ApiKeyRow

StoreOption = Annotated[
    str,
    typer.Option(
        help="Folder of the service's database, or postgresql://user@host/database.", envvar="FACEMARGIN_STORE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
ScopeOption = Annotated[
    list[str],
    typer.Option(
        "--scope", help="What the key may do: embed, verify, read, write, enrol-embedding, admin, metrics. Repeatable."
    ),
]
KeyId = Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it (not the key itself).")]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

keys = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Make, rotate and revoke API keys."
)


def serve(
    bundle: Annotated[Path | None, typer.Option(help="Folder of the exported model. [env: FACEMARGIN_BUNDLE]")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Folder of the database, made if it is missing, or postgresql://user@host/database. "
            "[env: FACEMARGIN_STORE]"
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 lets the system choose.")] = 8000,
    detector: Annotated[
        Path | None, typer.Option(help="Face detector (YuNet, ONNX); by default what `facemargin models pull` fetched.")
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Search engine: faiss: (default), pgvector:, milvus://host:19530 or milvus:FILE.db. "
            "[env: FACEMARGIN_INDEX]"
        ),
    ] = None,
    allow_plaintext_index: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext-index",
            help="Let the engine hold templates in the clear although the store is encrypted. "
            "[env: FACEMARGIN_ALLOW_PLAINTEXT_INDEX]",
        ),
    ] = False,
) -> None:
    """Serve a model over HTTP: embed, verify, enrol and search faces. Further settings: docs/service.md."""
    from service.app import create_app
    from service.logs import configure
    from service.server import address_of, demand_key_beyond_loopback, listen, run
    from service.settings import read_settings
    from service.store.keys import key_state

    settings = read_settings(
        bundle=bundle, store=store, detector=detector, index=index, allow_plaintext_index=allow_plaintext_index or None
    )
    configure(settings.log_format, settings.log_level)
    app = create_app(settings)
    service: Service = app.state.service
    with closing(service):
        with service.store.read() as session:
            state = key_state(session)
        demand_key_beyond_loopback(host, state.active)
        with listen(host, port) as bound:
            lines = [f"facemargin: serving on {address_of(bound)}", *_description(service), _about_keys(*state)]
            run(app, bound, started=lambda: typer.echo("\n".join(lines)))


def _description(service: "Service") -> list[str]:
    from facemargin.index.engines import shown

    detector = "present" if service.engine.detector else "missing: only aligned crops; `facemargin models pull yunet`"
    encryption = "templates, crops and snapshots" if service.store.vault.encrypts else "none; see docs/encryption.md"
    return [
        *(f"model: {_described(model)}" for model in service.models.values()),
        f"detector: {detector}",
        f"store: {service.store}, searched by {shown(service.settings.index)}",
        f"encryption: {encryption}",
        "liveness: there is none; a photograph of a person is taken for the person",
    ]


def _described(model: "Model") -> str:
    manifest, calibration = model.bundle.manifest, model.decisions.calibration
    decisions = f"calibrated on {calibration.source}" if calibration else "no calibration: send explicit thresholds"
    return f"{manifest.name} ({model.id}), {model.dim} dimensions, {decisions}"


def _about_keys(total: int, active: int) -> str:
    if active:
        return f"keys: {active} valid; every request needs one"
    if total:
        return "keys: none is valid any more, so every request is refused; make one with `facemargin keys add`"
    return "keys: none, so only this machine is answered; make one with `facemargin keys add`"


@keys.command("add")
def add(
    store: StoreOption,
    scope: ScopeOption,
    label: Annotated[str, typer.Option(help="What the key is for, to tell it from others.")] = "",
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", help="Limit the key to a collection, which need not exist yet. Repeatable."),
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long the key lives: 90d, 12h, 30m or 45s.")] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Limit of this key, instead of the service's FACEMARGIN_REQUESTS_PER_MINUTE."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, once: only its hash is stored."""
    from service.security import check_names, create_key, parse_scope
    from service.store import Store
    from service.store.keys import KeyLimits, known_key

    scopes = [parse_scope(name) for name in scope]
    names = check_names(collection) if collection else None
    end = None if expires_in is None else datetime.now(UTC) + _duration(expires_in)
    with Store(store) as opened, opened.write() as session:
        key = create_key(session, label=label, scopes=scopes, limits=KeyLimits(names, end, requests_per_minute))
        shown = _shown(known_key(session, key.split("_")[1]))
    _print_new(key, shown, as_json)


@keys.command("list")
def list_keys(store: StoreOption, as_json: JsonOption = False) -> None:
    """List the keys: id, scopes, limits, label, when they were made and when they end or were revoked."""
    from service.store import Store
    from service.store.keys import keys as stored_keys

    with Store(store, create=False) as opened, opened.read() as session:
        rows = [_shown(row) for row in stored_keys(session)]
    if as_json:
        typer.echo(json.dumps({"keys": rows}))
        return
    for row in rows:
        typer.echo("  ".join(_columns(row)))
    if not rows:
        typer.echo("no keys: the service answers its own machine only", err=True)


@keys.command("rotate")
def rotate(
    key_id: KeyId,
    store: StoreOption,
    grace: Annotated[str, typer.Option(help="How long the old key stays valid beside the new one.")] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Make a key that may do what another one may, print it, once, and let the old one end after the grace."""
    from service.security import rotate_key
    from service.store import Store
    from service.store.keys import known_key

    with Store(store, create=False) as opened, opened.write() as session:
        key = rotate_key(session, key_id, _duration(grace, least=0))
        shown = _shown(known_key(session, key.split("_")[1])) | {"replaces": _shown(known_key(session, key_id))}
    _print_new(key, shown, as_json)
    if not as_json:
        typer.echo(f"Key {key_id} ends {shown['replaces']['expires_at']}.", err=True)


@keys.command("revoke")
def revoke(key_id: KeyId, store: StoreOption, as_json: JsonOption = False) -> None:
    """Make a key invalid at once, also in a running service."""
    from service.store import Store
    from service.store.keys import revoke_key

    with Store(store, create=False) as opened, opened.write() as session:
        row = _shown(revoke_key(session, key_id))
    typer.echo(json.dumps(row) if as_json else f"key {key_id} is revoked")


def _shown(row: "ApiKeyRow") -> dict[str, Any]:
    return {
        "id": row.id,
        "scopes": row.scopes,
        "label": row.label,
        "collections": row.collections,
        "requests_per_minute": row.requests_per_minute,
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
    }


def _columns(row: dict[str, Any]) -> list[str]:
    """A line of the list, without what the key does not have."""
    state = "valid"
    if row["revoked_at"]:
        state = f"revoked {row['revoked_at']}"
    elif row["expires_at"]:
        over = datetime.fromisoformat(row["expires_at"]) <= datetime.now(UTC)
        state = f"{'expired' if over else 'valid until'} {row['expires_at']}"
    found = [row["id"], ",".join(row["scopes"])]
    found += [f"only {','.join(row['collections'])}"] if row["collections"] is not None else []
    found += [f"{row['requests_per_minute']} a minute"] if row["requests_per_minute"] is not None else []
    found += [f"made {row['created_at']}", state]
    return found + ([row["label"]] if row["label"] else [])


def _print_new(key: str, shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"key": key} | shown))
        return
    typer.echo(key)
    typer.echo("Keep it now: it is not stored and cannot be shown again.", err=True)


def _duration(text: str, least: int = 1) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None or int(found[1]) < least:
        raise ConfigError(f"'{text}' is no duration; write a whole number and s, m, h or d, as in 90d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
