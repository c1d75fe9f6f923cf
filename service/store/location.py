"""Where a store is: a folder with an SQLite database in it, or a database on a PostgreSQL server."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from facemargin.errors import ConfigError

Location = Path | URL

_SCHEMES = ("postgresql", "postgres")
_SECRETS = ("password", "sslpassword")
"""Options of libpq that are passwords too."""


def parse_location(text: str | Path | URL) -> Location:
    """The location that a setting or an option names: a path, or ``postgresql://user@host:port/database``.

    Options of libpq may follow (``?sslmode=verify-full&passfile=...``); PostgreSQL's environment variables count too.

    Raises:
        ConfigError: it looks like a URL and is none that a store can be at; a password in it is not shown.
    """
    if not isinstance(text, str):
        return text
    if "://" not in text:
        return Path(text)
    scheme = text.partition("://")[0]
    try:
        url = make_url(text)
        if scheme not in _SCHEMES:
            raise ArgumentError("unknown scheme")
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"the store at {scheme}://... : name a folder, or postgresql://user@host:port/database"
        ) from None
    if text.partition("?")[0].count("@") > 1 or "@" in (url.database or ""):
        raise ConfigError(
            f"the store at {scheme}://... : write the characters @ / : ? % of a password as %40 %2F %3A %3F %25"
        )
    if not url.database:
        raise ConfigError(f"the store at {described(url)}: name its database, as in postgresql://user@host/facemargin")
    return url.set(drivername="postgresql")


def described(location: Location) -> str:
    """A location as messages show it, without a password."""
    if isinstance(location, Path):
        return str(location)
    return location.difference_update_query(_SECRETS).render_as_string(hide_password=True)


def _validated(value: object) -> object:
    try:
        return parse_location(value) if isinstance(value, str | Path | URL) else value
    except ConfigError as error:
        raise ValueError(str(error)) from error


LocationSetting = Annotated[Path | URL, BeforeValidator(_validated)]
"""A location as a field of the settings."""
