"""Device and precision: what this machine trains best with."""

import os
from typing import Literal, cast, get_args

import torch

from facemargin.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def choose_device(wanted: str) -> torch.device:
    """The device that a config asks for; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: CUDA is asked for on a machine without it.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f'device {wanted!r} is not on this machine; use device = "auto" or "cpu"')
    return device


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
