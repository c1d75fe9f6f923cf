"""The networks of the MNIST recipes: the L-Softmax paper's, one whose embedding is a plane, and a very small one."""

from typing import Literal, get_args

from torch import nn

Architecture = Literal["l-softmax-paper", "plane", "small"]


def make_network(architecture: Architecture, *, width: int, convolutions: int = 3, embedding_dim: int) -> nn.Sequential:
    """A network (N, 1, 28, 28) float32 -> (N, D).

    Args:
        architecture: ``l-softmax-paper`` is arXiv 1612.02295, table 1: a 3×3 convolution, three groups of 3×3
            convolutions with 2×2 max pooling behind each, and a fully connected layer; all of one width. ``plane`` is
            LeNet with more maps, as in Wen et al. (center loss, ECCV 2016): three pairs of 5×5 convolutions with width,
            2·width and 4·width maps and pooling behind each pair, and a linear map to D. ``small`` is two strided
            convolutions and a fully connected layer.
        width: channels ≥ 1 (64 in the paper's network, 32 in the plane's).
        convolutions: in each group of ``l-softmax-paper``, ≥ 1.
        embedding_dim: D ≥ 1.

    Returns:
        The network: batch norm and PReLU behind each convolution, He initialisation for PReLU's starting slope.

    Raises:
        ValueError: an unknown architecture or a number out of range.
    """
    for name, value in (("width", width), ("convolutions", convolutions), ("embedding_dim", embedding_dim)):
        if value < 1:
            raise ValueError(f"{name}={value!r} is out of range: it must be ≥ 1")
    if architecture == "l-softmax-paper":
        layers = _paper(width, convolutions, embedding_dim)
    elif architecture == "plane":
        layers = _plane(width, embedding_dim)
    elif architecture == "small":
        layers = _small(width, embedding_dim)
    else:
        raise ValueError(f"architecture={architecture!r} is unknown; known ones: {', '.join(get_args(Architecture))}")
    network = nn.Sequential(*layers)
    network.apply(_initialise)
    return network


def _paper(width: int, convolutions: int, embedding_dim: int) -> list[nn.Module]:
    layers = [*_convolution(1, width, 3)]
    for _ in range(3):
        for _ in range(convolutions):
            layers += _convolution(width, width, 3)
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # as Caffe pools: 28, 14, 7, 4
    return [*layers, nn.Flatten(), *_fully_connected(16 * width, embedding_dim), nn.PReLU(embedding_dim)]


def _plane(width: int, embedding_dim: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = 1
    for maps in (width, 2 * width, 4 * width):
        layers += [*_convolution(before, maps, 5), *_convolution(maps, maps, 5), nn.MaxPool2d(2)]
        before = maps
    # No batch norm behind it: that would fix the size of the cloud that the picture is to show.
    return [*layers, nn.Flatten(), nn.Linear(9 * before, embedding_dim)]


def _small(width: int, embedding_dim: int) -> list[nn.Module]:
    first, second = _convolution(1, width, 5, stride=2), _convolution(width, 2 * width, 3, stride=2)
    return [*first, *second, nn.Flatten(), *_fully_connected(49 * 2 * width, embedding_dim)]


def _convolution(before: int, maps: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, maps, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(maps), nn.PReLU(maps)]


def _fully_connected(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.25)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
