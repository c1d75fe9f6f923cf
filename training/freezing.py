"""Which parts of a backbone stay as they are, and until when."""

from torch import nn

from facemargin.backbones import Backbone
from facemargin.errors import ConfigError


class Freezing:
    """Keeps parts of a backbone fixed for the first epochs of a run, or for all of it.

    A fixed part's parameters get no gradient, so that neither momentum nor weight decay moves them; it runs in eval
    mode, so that its batch norm neither measures the batch nor is moved by it, and its dropout is off.

    Args:
        backbone: of the run.
        freeze: names of parts, or how many of them, counted from the input.
        epochs: epochs at the beginning of the run in which they are fixed; None fixes them throughout.

    Raises:
        ConfigError: an unknown part, or more parts than there are; lists the known ones.
    """

    def __init__(self, backbone: Backbone, freeze: tuple[str, ...] | int, epochs: int | None) -> None:
        parts = backbone.parts()
        self.backbone, self.epochs = backbone, epochs
        self.names = frozen_names(list(parts), freeze, backbone.name)
        self.parts: list[nn.Module] = [parts[name] for name in self.names]
        self.leaves_the_head_alone = len(self.names) == len(parts)

    def apply(self, epoch: int) -> None:
        """Put the backbone into training mode and the parts that are fixed in this epoch into theirs."""
        learning = self.epochs is not None and epoch >= self.epochs
        self.backbone.train()
        for part in self.parts:
            part.train(learning).requires_grad_(learning)


def frozen_names(known: list[str], freeze: tuple[str, ...] | int, backbone: str) -> list[str]:
    """The names that a setting means, from input to output.

    Raises:
        ConfigError: as `Freezing`.
    """
    listed = f"the parts of {backbone} are, from input to output: {', '.join(known)}"
    if isinstance(freeze, int):
        if freeze > len(known):
            raise ConfigError(f"freeze {freeze} is more than there is; {listed}")
        return known[:freeze]
    unknown = [name for name in freeze if name not in known]
    if unknown:
        raise ConfigError(f"freeze names the unknown {', '.join(unknown)}; {listed}")
    return [name for name in known if name in freeze]
