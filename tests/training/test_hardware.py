"""Device and precision follow the machine unless the config says otherwise."""

import contextlib

import pytest
import torch

from facemargin.errors import ConfigError
from training.hardware import choose_device, choose_precision, describe_hardware

CPU = torch.device("cpu")


@pytest.mark.parametrize(("amx", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_trains_in_bfloat16_only_with_amx(monkeypatch: pytest.MonkeyPatch, amx: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("bfloat16", CPU) == "bfloat16"


def test_a_gpu_trains_in_bfloat16_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for supported, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, supported=supported: supported)
        assert choose_precision("auto", torch.device("cuda")) == expected


def test_cuda_without_a_gpu_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match="not on this machine"):
        choose_device("cuda")


def test_the_description_names_cores() -> None:
    assert "cores" in describe_hardware(CPU)
