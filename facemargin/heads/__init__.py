"""Loss heads: which margin. One head a file; every head takes every partition.

To add one, write ``heads/<name>.py`` with a `Head` subclass and add one line to `HEADS`.
"""

import inspect
from typing import Any

from .a_softmax import ASoftmax
from .am_softmax import AMSoftmax
from .annealing import Annealing
from .arcface import ArcFace
from .base import BatchLosses, Features, Head, HeadOptions
from .geometry import NORM_FLOOR
from .l2_softmax import L2Softmax
from .l_softmax import LSoftmax
from .modified import ModifiedSoftmax
from .normface import NormFace
from .softmax import Softmax

HEADS: dict[str, type[Head]] = {
    "softmax": Softmax,
    "modified": ModifiedSoftmax,
    "l-softmax": LSoftmax,
    "a-softmax": ASoftmax,
    "am-softmax": AMSoftmax,
    "l2-softmax": L2Softmax,
    "normface": NormFace,
    "arcface": ArcFace,
}
"""Every head by its name."""


def make_head(name: str, *, embedding_dim: int, num_classes: int, **options: Any) -> Head:
    """Build a head by its name.

    Args:
        name: a key of `HEADS`.
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        **options: those of `Head` and of the head's own class.

    Returns:
        The head, its class rows initialised from PyTorch's global generator.

    Raises:
        ValueError: the name or an option is unknown to that head (the known ones are listed), or a value is out of
            range.

    >>> head = make_head("am-softmax", embedding_dim=512, num_classes=100, scale=30.0, margin=0.35)
    >>> head.weight.shape
    torch.Size([100, 512])
    """
    if name not in HEADS:
        raise ValueError(f"head={name!r} is unknown; known heads: {', '.join(HEADS)}")
    known = option_names(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"{option}={options[option]!r}: head {name!r} takes no {option}; its options: {', '.join(known)}"
            )
    return HEADS[name](embedding_dim, num_classes, **options)


def option_names(name: str) -> tuple[str, ...]:
    """The options that a head takes beyond ``embedding_dim`` and ``num_classes``, its own first.

    >>> option_names("am-softmax")[:3]
    ('scale', 'margin', 'learn_scale')
    """
    parameters = inspect.signature(HEADS[name]).parameters.values()
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return tuple(dict.fromkeys([*own, *HeadOptions.__annotations__]))


__all__ = [
    "HEADS",
    "NORM_FLOOR",
    "AMSoftmax",
    "ASoftmax",
    "Annealing",
    "ArcFace",
    "BatchLosses",
    "Features",
    "Head",
    "HeadOptions",
    "L2Softmax",
    "LSoftmax",
    "ModifiedSoftmax",
    "NormFace",
    "Softmax",
    "make_head",
    "option_names",
]
