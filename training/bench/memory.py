"""Peak resident memory of a call, from Linux's own high-water mark."""

import gc
from collections.abc import Callable
from pathlib import Path


def peak_extra_bytes(run: Callable[[], None]) -> int | None:
    """Peak resident memory of a call beyond what was resident before it; None where the system does not tell."""
    gc.collect()
    if not reset_peak():
        return None
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


def reset_peak() -> bool:
    """Start the high-water mark anew from what is resident now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak resident memory of the process since the mark was last reset; None where the system does not tell."""
    return _status_bytes("VmHWM") if Path("/proc/self/status").exists() else None


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
