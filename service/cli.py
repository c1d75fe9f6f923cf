"""The commands ``serve`` and ``keys``: parse, call, print. Heavy imports happen when a command runs."""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.context import Service
    from service.models import Model
    from service.store import ApiKeyRow

StoreOption = Annotated[Path, typer.Option(help="Folder of the service's database.", envvar="FACEMARGIN_STORE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
ScopeOption = Annotated[
    list[str],
    typer.Option(
        "--scope", help="What the key may do: embed, verify, read, write, enrol-embedding, admin. Repeatable."
    ),
]

keys = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Make and revoke API keys.")


def serve(
    bundle: Annotated[Path | None, typer.Option(help="Folder of the exported model. [env: FACEMARGIN_BUNDLE]")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of the database; made if it is missing. [env: FACEMARGIN_STORE]")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 lets the system choose.")] = 8000,
    detector: Annotated[
        Path | None, typer.Option(help="Face detector (YuNet, ONNX); by default what `facemargin models pull` fetched.")
    ] = None,
) -> None:
    """Serve a model over HTTP: embed, verify, enrol and search faces. Further settings: docs/service.md."""
    from service.app import create_app
    from service.server import address_of, demand_key_beyond_loopback, listen, run
    from service.settings import read_settings
    from service.store.keys import key_state

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = read_settings(bundle=bundle, store=store, detector=detector)
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
    detector = "present" if service.engine.detector else "missing: only aligned crops; `facemargin models pull yunet`"
    encryption = "templates, crops and snapshots" if service.store.vault.encrypts else "none; see docs/encryption.md"
    return [
        *(f"model: {_described(model)}" for model in service.models.values()),
        f"detector: {detector}",
        f"store: {service.settings.store}",
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
        return "keys: all are revoked, so every request is refused; make one with `facemargin keys add`"
    return "keys: none, so only this machine is answered; make one with `facemargin keys add`"


@keys.command("add")
def add(
    store: StoreOption,
    scope: ScopeOption,
    label: Annotated[str, typer.Option(help="What the key is for, to tell it from others.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, once: only its hash is stored."""
    from service.security import create_key, parse_scope
    from service.store import Store

    scopes = [parse_scope(name) for name in scope]
    with Store(store) as opened, opened.write() as session:
        key = create_key(session, label=label, scopes=scopes)
    if as_json:
        typer.echo(json.dumps({"id": key.split("_")[1], "key": key, "scopes": sorted(set(scopes)), "label": label}))
        return
    typer.echo(key)
    typer.echo("Keep it now: it is not stored and cannot be shown again.", err=True)


@keys.command("list")
def list_keys(store: StoreOption, as_json: JsonOption = False) -> None:
    """List the keys: id, scopes, label, when they were made and revoked."""
    from service.store import Store
    from service.store.keys import keys as stored_keys

    with Store(store, create=False) as opened, opened.read() as session:
        rows = [_shown(row) for row in stored_keys(session)]
    if as_json:
        typer.echo(json.dumps({"keys": rows}))
        return
    for row in rows:
        state = f"revoked {row['revoked_at']}" if row["revoked_at"] else "valid"
        typer.echo(
            f"{row['id']}  {','.join(row['scopes'])}  made {row['created_at']}  {state}  {row['label']}".rstrip()
        )
    if not rows:
        typer.echo("no keys: the service answers its own machine only", err=True)


@keys.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it (not the key itself).")],
    store: StoreOption,
    as_json: JsonOption = False,
) -> None:
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
        "created_at": row.created_at.isoformat(),
        "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
    }
