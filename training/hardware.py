"""Device and precision: what this machine trains best with."""

import os
from typing import Literal, cast, get_args

import torch

from facemargin.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def choose_device(wanted: str, *, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """The device that a config asks for; ``auto`` is CUDA where there is one, else the CPU.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        local_rank, local_size: place among the run's processes on this machine; of several each takes its own GPU.

    Raises:
        ConfigError: CUDA is asked for on a machine without it, or with fewer GPUs than processes.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if local_size > 1 and device.type == "cuda" and torch.cuda.is_available():
        if ":" in wanted or torch.cuda.device_count() < local_size:
            raise ConfigError(
                f"{local_size} processes on this machine need a GPU each: it has {torch.cuda.device_count()}, and "
                f'device is {wanted!r}; start fewer, or use device = "cuda" or "cpu"'
            )
        return torch.device("cuda", local_rank)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f'device {wanted!r} is not on this machine; use device = "auto" or "cpu"')
    return device


def may_use_gpu(wanted: str, local_rank: int) -> bool:
    """Whether `choose_device` may give a process a GPU, which is then refused or not on all ranks together."""
    return wanted != "cpu" and local_rank < torch.cuda.device_count()


def has_amx() -> bool:
    """Whether PyTorch finds AMX tile instructions on this CPU."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def _gpu_has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """bfloat16 where the CPU has AMX or the GPU supports it, else float32, unless the config names one.

    On a CPU without AMX bfloat16 is emulated and slower than float32.
    """
    if wanted in get_args(Precision):
        return cast(Precision, wanted)
    fast = _gpu_has_bfloat16(device) if device.type == "cuda" else has_amx()
    return "bfloat16" if fast else "float32"


def describe_hardware(device: torch.device) -> str:
    """One line for reports: the GPU's name, or the CPU's with its cores and AMX."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return f"{_cpu_name()}, {os.cpu_count()} cores, {'with' if has_amx() else 'without'} AMX"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "CPU"
