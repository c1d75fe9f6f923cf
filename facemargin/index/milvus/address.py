"""Where a Milvus is."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from facemargin.errors import ConfigError

_PORT = 19530
_FORMS = "milvus://host:19530, milvus://user@host:19530/database, milvus+tls://host:19530 or milvus:PATH.db"


@dataclass(frozen=True)
class MilvusAddress:
    """A server, or a file of milvus-lite.

    Attributes:
        uri: as pymilvus takes it.
        database: its name on the server; empty for the default one.
        token: ``user:password`` or an API key; empty for none. Never shown.
    """

    uri: str
    database: str = ""
    token: str = field(default="", repr=False)

    @classmethod
    def parse(cls, rest: str, *, secret: str = "", tls: bool = False) -> "MilvusAddress":
        """Read what follows ``milvus:`` in a URL.

        Args:
            rest: ``//host:port/database``, with ``user@`` where it is needed, or ``PATH.db``.
            secret: the user's password, or without a user the whole token.
            tls: whether the server is spoken to by TLS.

        Raises:
            ConfigError: it is neither, or it has a password in it, or the folder of the file is missing.
        """
        return cls._server(rest, secret, tls) if rest.startswith("//") else cls._file(rest)

    @classmethod
    def _server(cls, rest: str, secret: str, tls: bool) -> "MilvusAddress":
        try:
            parts = urlsplit(f"milvus:{rest}")
            port = parts.port or _PORT
        except ValueError:
            raise ConfigError(f"the URL of Milvus cannot be read; write {_FORMS}") from None
        if parts.password is not None:
            raise ConfigError("the URL of Milvus has a password in it; put it into FACEMARGIN_MILVUS_TOKEN instead")
        if not parts.hostname or parts.fragment or "/" in parts.path[1:]:
            raise ConfigError(f"the URL of Milvus names no host, or too much; write {_FORMS}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        token = f"{parts.username}:{secret}" if parts.username else secret
        return cls(f"{'https' if tls else 'http'}://{host}:{port}", parts.path[1:], token)

    @classmethod
    def _file(cls, rest: str) -> "MilvusAddress":
        path = Path(rest)
        if path.suffix != ".db":
            raise ConfigError(f"the index 'milvus:{rest}' names no Milvus; write {_FORMS}")
        if not path.parent.is_dir():
            raise ConfigError(f"the folder {path.parent} of the Milvus file does not exist")
        return cls(str(path.absolute()))

    @property
    def is_file(self) -> bool:
        """Whether milvus-lite runs in this process."""
        return self.uri.endswith(".db")

    def __str__(self) -> str:
        """As messages show it."""
        return f"Milvus at {self.uri}" + (f"/{self.database}" if self.database else "")
