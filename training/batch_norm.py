"""Batch normalisation that measures the samples of all ranks, as one process would that has them all."""

from typing import Any

import torch
from torch import Tensor, nn

from facemargin.partitions.collectives import shared, sum_over_ranks, world


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`torch.nn.BatchNorm1d` and ``2d`` over the samples of all ranks.

    Mean and variance of each channel are those of all ranks' samples together, which may differ in number, and so are
    their gradients. Two messages of C numbers forward and two backward. PyTorch's own ``SyncBatchNorm`` needs a GPU.
    In eval mode, and with one rank, it is the base class.

    Shape:
        input and output (N, C) or (N, C, *spatial), N ≥ 0 where the ranks together have at least two numbers a channel.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features; a collective call in training mode."""
        if not self.training or world()[1] == 1:
            normalised: Tensor = super().forward(features)
            return normalised
        axes, shape = [0, *range(2, features.ndim)], (1, -1, *[1] * (features.ndim - 2))
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        with torch.autocast(features.device.type, enabled=False):
            own = wide.new_full((1,), features.numel() / self.num_features)
            sums = _of_all_ranks(torch.cat([wide.sum(axes), own]))
            count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
            # Around the common mean: a difference of large sums of squares would have no digits left.
            centred = wide - mean.view(shape)
            variance = _of_all_ranks(centred.square().sum(axes)) / count
            self._remember(mean.detach(), variance.detach(), count)
            scaled = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as the base class does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)

    def _check_input_dim(self, input: Any) -> None:
        if input.ndim < 2:
            raise ValueError(f"features have shape {tuple(input.shape)}; (N, C) or (N, C, *spatial) is needed")


def synced(network: nn.Module) -> None:
    """Let every batch norm inside a network measure all ranks; its parameters, buffers and their names stay."""
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                settings = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
                replacement = SyncedBatchNorm(*settings)
                for key, value in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]:
                    setattr(replacement, key, value)
                setattr(parent, name, replacement.train(norm.training))


def _of_all_ranks(values: Tensor) -> Tensor:
    """Σ over ranks, whose gradient is the sum of what arrives for it on all ranks."""
    return shared((sum_over_ranks(values),))[0]
