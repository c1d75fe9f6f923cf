"""What a run on MNIST is made of: network, length, rates, λ, and which heads; nothing is trained here.

Everything that has a place in a run is a fraction of its length, so that a run of another length keeps its shape.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

from facemargin.errors import ConfigError
from facemargin.heads import HEADS, Annealing, Head, make_head, option_names
from training.mnist.digits import CLASSES
from training.mnist.network import Architecture

PAPER_STEPS = 20_000
"""Length of the L-Softmax paper's run, to which its schedule of λ belongs."""

PUBLISHED_ERROR: Mapping[str, float] = {
    "softmax": 0.0040,
    "l-softmax:2": 0.0032,
    "l-softmax:3": 0.0031,
    "l-softmax:4": 0.0031,
}
"""Test errors of arXiv 1612.02295, table 2, by `HeadChoice.key`."""


class HeadChoice(NamedTuple):
    """A head by name, with its margin where one was asked for."""

    name: str
    margin: float | None = None

    @property
    def key(self) -> str:
        """As it was asked for: ``l-softmax:2``."""
        return self.name if self.margin is None else f"{self.name}:{self.margin:g}"


def parse_head(text: str) -> HeadChoice:
    """Read ``l-softmax`` or ``l-softmax:2``, the number being the margin.

    Raises:
        ConfigError: an unknown head, or a margin that the head refuses.

    >>> parse_head("l-softmax:2").margin
    2.0
    """
    name, colon, margin = text.strip().partition(":")
    if name not in HEADS:
        raise ConfigError(f"head {name!r} is unknown; known heads: {', '.join(HEADS)}")
    if not colon:
        return HeadChoice(name)
    if "margin" not in option_names(name):
        raise ConfigError(f"head {text!r}: {name} has no margin; write {name}")
    try:
        choice = HeadChoice(name, float(margin))
        make_head(name, embedding_dim=1, num_classes=2, margin=choice.margin)
    except ValueError as error:
        raise ConfigError(f"head {text!r}: {error}; a margin is written as in l-softmax:2") from error
    return choice


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train on MNIST.

    Attributes:
        name: what the user asked for.
        form: ``full`` as published, ``short`` for a CPU.
        architecture, width, convolutions, embedding_dim: see `make_network`.
        batch_size: images a step.
        steps: optimizer steps.
        learning_rate: of SGD, over the first part of the run.
        milestones: fractions of the run after which the rate is divided by 10.
        momentum, weight_decay: of SGD.
        clip_norm: largest norm of the whole gradient; None does not clip.
        lambda_schedule: of L-Softmax: ``paper`` is the published power law with γ·steps kept, so that λ falls over the
            same fractions of a run of any length; ``default`` is the head's own `Head.annealing_for_run`.
        heads: the heads compared by default.
        head_options: options by head that differ from the head's defaults.
    """

    name: str
    form: Literal["full", "short"]
    architecture: Architecture
    width: int
    convolutions: int = 3
    embedding_dim: int
    batch_size: int
    steps: int
    learning_rate: float = 0.1
    milestones: tuple[float, ...] = (0.6, 0.75)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    lambda_schedule: Literal["paper", "default"] = "default"
    heads: tuple[str, ...] = tuple(HEADS)
    head_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def rate(self, step: int) -> float:
        """Learning rate of a step.

        >>> [RECIPES["mnist", True].rate(step) for step in (0, 11_999, 12_000, 15_000)]
        [0.1, 0.1, 0.01, 0.001]
        """
        passed = sum(step >= milestone * self.steps for milestone in self.milestones)
        return self.learning_rate / float(10**passed)

    def annealing(self, name: str) -> Annealing | None:
        """λ of a head over this run; None for heads without λ."""
        if name == "l-softmax" and self.lambda_schedule == "paper":
            return Annealing(base=1000, gamma=2.5e-5 * PAPER_STEPS / self.steps, power=35)
        return HEADS[name].annealing_for_run(self.steps)

    def build_head(self, choice: HeadChoice) -> Head:
        """The head of a run.

        Raises:
            ConfigError: it cannot learn its margin in a run of this length (see `Head.diagnose`).
        """
        options: dict[str, Any] = dict(self.head_options.get(choice.name, {}))
        if choice.margin is not None:
            options["margin"] = choice.margin
        annealing = self.annealing(choice.name)
        if annealing is not None:
            options["annealing"] = annealing
        head = make_head(choice.name, embedding_dim=self.embedding_dim, num_classes=CLASSES, **options)
        problem = head.diagnose(self.steps)
        if problem is not None:
            raise ConfigError(f"{choice.key} in a run of {self.steps} steps: {problem}")
        return head

    def settings(self, choice: HeadChoice) -> dict[str, Any]:
        """All that decides a run's outcome beside seed and data, as JSON values."""
        values = asdict(self)
        for other in ("heads", "head_options", "lambda_schedule"):
            del values[other]
        return {**values, "milestones": list(self.milestones), "head": self.build_head(choice).options()}


_IN_A_PLANE: Mapping[str, Mapping[str, Any]] = {
    "am-softmax": {"scale": 16.0, "margin": 0.1},
    "arcface": {"scale": 16.0, "margin": 0.2},
}
"""Ten classes in a plane are 36° apart: cosine margins above 1 − cos 36° = 0.19 cannot be met there, and with the
defaults of hundreds of dimensions (s = 30 and 64) classes that start in each other's way never pass."""

RECIPES: Mapping[tuple[str, bool], Recipe] = {
    (recipe.name, recipe.form == "full"): recipe
    for recipe in (
        Recipe(
            name="mnist",
            form="full",
            architecture="l-softmax-paper",
            width=64,
            embedding_dim=256,
            batch_size=256,
            steps=PAPER_STEPS,
            lambda_schedule="paper",
            heads=tuple(PUBLISHED_ERROR),
        ),
        Recipe(
            name="mnist",
            form="short",
            architecture="l-softmax-paper",
            width=8,
            convolutions=1,
            embedding_dim=64,
            batch_size=128,
            steps=600,
            heads=tuple(PUBLISHED_ERROR),
        ),
        Recipe(
            name="mnist-2d",
            form="full",
            architecture="plane",
            width=32,
            embedding_dim=2,
            batch_size=256,
            steps=10_000,
            learning_rate=0.03,
            clip_norm=5.0,
            head_options=_IN_A_PLANE,
        ),
        Recipe(
            name="mnist-2d",
            form="short",
            architecture="plane",
            width=4,
            embedding_dim=2,
            batch_size=64,
            steps=800,
            learning_rate=0.03,
            clip_norm=5.0,
            head_options=_IN_A_PLANE,
        ),
    )
}
"""Every recipe by its name and whether it is the full form."""


def find_recipe(name: str, *, full: bool, steps: int | None = None) -> Recipe:
    """A recipe by name and form, at another length where one is given.

    Raises:
        ConfigError: the name is unknown, or ``steps`` is below 1.
    """
    if (name, full) not in RECIPES:
        known = ", ".join(dict.fromkeys(name for name, _ in RECIPES))
        raise ConfigError(f"recipe {name!r} is unknown; known recipes: {known}")
    if steps is not None and steps < 1:
        raise ConfigError(f"steps={steps} is out of range: a run has at least 1 step")
    recipe = RECIPES[name, full]
    return recipe if steps is None else replace(recipe, steps=steps)
