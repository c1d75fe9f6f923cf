"""How much memory a run took at its highest."""

import torch

from training.bench.memory import peak_bytes, reset_peak


def forget_peak(device: torch.device) -> None:
    """Start a new high-water mark, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()


def peak_memory_bytes(device: torch.device) -> int | None:
    """Highest memory of tensors on a GPU, else of the process; None where the system does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
