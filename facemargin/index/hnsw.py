"""How engines build and search their graphs (HNSW; Malkov and Yashunin 2016, arXiv:1603.09320)."""

from dataclasses import dataclass, fields
from urllib.parse import parse_qsl

from facemargin.errors import ConfigError


@dataclass(frozen=True)
class Hnsw:
    """Choices for every index of an engine; docs/engines.md tells how the defaults were found.

    Attributes:
        m: neighbours of a vector in each layer, 2 to 100; twice as many in the lowest.
        ef_construction: candidates when a vector is put in, from 2·m (at least 4) to 1000.
        ef_search: candidates of a search, 1 to 1000; one for more than that has as many as are asked for.
        build_memory_mb: memory of PostgreSQL for building a graph, which takes many times as long without room.

    Raises:
        ValueError: a value outside of its range.
    """

    m: int = 16
    ef_construction: int = 128
    ef_search: int = 200
    build_memory_mb: int = 1024

    def __post_init__(self) -> None:
        """Refuse what an engine would refuse later."""
        _within("m", self.m, 2, 100)
        _within("ef_construction", self.ef_construction, max(4, 2 * self.m), 1000)
        _within("ef_search", self.ef_search, 1, 1000)
        _within("build_memory_mb", self.build_memory_mb, 1, 2**20)

    @classmethod
    def parse(cls, query: str) -> "Hnsw":
        """Read ``ef_search=400&m=24``, the query of a URL.

        Raises:
            ConfigError: an unknown name, one that comes twice, or a value that cannot be.
        """
        names = [field.name for field in fields(cls)]
        given: dict[str, int] = {}
        try:
            for name, value in parse_qsl(query, keep_blank_values=True):
                if name not in names or name in given:
                    raise ValueError(f"{name!r} is unknown, or there twice")  # without its value, maybe a password
                given[name] = int(value)
            return cls(**given)
        except ValueError as error:
            raise ConfigError(f"the index's options cannot be used: {error}; they may be {', '.join(names)}") from None


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; it must be from {least} to {most}")
