"""Evaluation protocols: each a file here and one line in `PROTOCOLS`, all read into a few types.

`PairSet` holds verification pairs; `TemplatePairs` and `TemplateSearch` hold IJB's templates. To add a protocol of
pairs, copy ``pair_list.py`` and add its line.
"""

from collections.abc import Callable
from dataclasses import dataclass

from facemargin.errors import ConfigError
from training.data.protocols.cfp import is_cfp, load_cfp_ff, load_cfp_fp
from training.data.protocols.cross_lfw import is_calfw, is_cplfw, load_cross_lfw
from training.data.protocols.ijb import TemplatePairs, TemplateSearch, load_ijb_pairs, load_ijb_search
from training.data.protocols.insightface_bin import convert_to_bin, is_bin, load_bin, read_bin, write_bin
from training.data.protocols.lfw import is_lfw, load_lfw
from training.data.protocols.pair_list import is_agedb, is_pair_list, load_agedb, load_pair_list
from training.data.protocols.pair_set import PairSet
from training.data.protocols.source import OnProblem, Source

__all__ = [
    "PROTOCOLS",
    "OnProblem",
    "PairSet",
    "Protocol",
    "Source",
    "TemplatePairs",
    "TemplateSearch",
    "convert_to_bin",
    "load_pairs",
    "load_protocol",
    "read_bin",
    "write_bin",
]


@dataclass(frozen=True)
class Protocol:
    """How a protocol is read and recognised.

    Attributes:
        load: reads it.
        claims: whether the files given can only be this protocol's.
    """

    load: Callable[[Source], PairSet | TemplatePairs | TemplateSearch]
    claims: Callable[[Source], bool]


def _has_lists(source: Source) -> bool:
    return source.meta is not None


PROTOCOLS: dict[str, Protocol] = {
    "lfw": Protocol(load_lfw, is_lfw),
    "bin": Protocol(load_bin, is_bin),
    "cfp-ff": Protocol(load_cfp_ff, is_cfp),
    "cfp-fp": Protocol(load_cfp_fp, is_cfp),
    "agedb": Protocol(load_agedb, is_agedb),
    "calfw": Protocol(load_cross_lfw, is_calfw),
    "cplfw": Protocol(load_cross_lfw, is_cplfw),
    "pairs": Protocol(load_pair_list, is_pair_list),
    "ijb-1:1": Protocol(load_ijb_pairs, _has_lists),
    "ijb-1:n": Protocol(load_ijb_search, _has_lists),
}


def load_protocol(name: str | None, source: Source) -> PairSet | TemplatePairs | TemplateSearch:
    """Read a protocol; without a name, the one whose files these must be.

    Raises:
        ConfigError: an unknown name, or files that tell none or several.
        DataError: what cannot be used, as the protocol's own file says.
    """
    if name is not None and name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol '{name}'; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name or _guess(source)].load(source)


def load_pairs(name: str | None, source: Source) -> PairSet:
    """As `load_protocol`, for a protocol of pairs of pictures.

    Raises:
        ConfigError: a protocol of templates, or as in `load_protocol`.
        DataError: as in `load_protocol`.
    """
    found = load_protocol(name, source)
    if not isinstance(found, PairSet):
        raise ConfigError(f"{found.name} compares templates of many pictures, not pairs of pictures")
    return found


def _guess(source: Source) -> str:
    claimed = [name for name, protocol in PROTOCOLS.items() if protocol.claims(source)]
    if len(claimed) == 1:
        return claimed[0]
    if claimed:
        raise ConfigError(f"these files may be {' or '.join(claimed)}; say which with --protocol")
    if source.pairs is not None:
        return "lfw"  # whose reader says what is wrong with the list
    raise ConfigError(f"--pairs is needed, or --protocol with one of {', '.join(PROTOCOLS)}")
