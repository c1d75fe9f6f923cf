"""LFW and whatever else comes with a ``pairs.txt``: a folder a person, pictures ``<name>/<name>_<number>``."""

from training.data.pairs import Pairs, Photo, read_pairs
from training.data.protocols.listed import ListedPairs, find_pictures
from training.data.protocols.pair_set import PairSet
from training.data.protocols.source import Source


def load_lfw(source: Source) -> PairSet:
    """Read ``pairs.txt`` and find its photographs.

    Raises:
        ConfigError: no list was given.
        DataError: as in `training.data.pairs.read_pairs` and `find_pictures`.
    """
    path = source.list_file("LFW's pairs.txt")
    return pairs_of(read_pairs(path), source, name=path.name)


def pairs_of(pairs: Pairs, source: Source, *, name: str) -> PairSet:
    """Pairs that were read already, with their pictures.

    Raises:
        DataError: as in `find_pictures`.
    """
    people = {_name(photo): photo.name for photo in (*pairs.first, *pairs.second)}
    listed = ListedPairs(
        name=name,
        first=[_name(photo) for photo in pairs.first],
        second=[_name(photo) for photo in pairs.second],
        same=pairs.same,
        fold=pairs.fold,
        people=people,
        order=[_name(photo) for photo in pairs.photos()],
    )
    return find_pictures(listed, source)


def is_lfw(source: Source) -> bool:
    """Whether the list begins with LFW's header: one or two numbers."""
    header = source.first_fields()
    return 1 <= len(header) <= 2 and all(field.isdecimal() for field in header)


def _name(photo: Photo) -> str:
    return f"{photo.name}/{photo.stem}"
