"""What a figure was measured on, in words."""

import ctypes
import os

import numpy as np


def describe_cpu() -> str:
    """Name of the processor and the cores that this process may use."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else 'CPU'}, {cores} cores, numpy {np.__version__}"


def resident_bytes() -> int:
    """Memory of this process that is in RAM now, without what it could give back; 0 where the system does not tell."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc, which keeps freed memory for later
    if trim is not None:
        trim(0)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
