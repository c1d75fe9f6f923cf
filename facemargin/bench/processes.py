"""Memory and processor time of processes beside this one, from Linux's /proc."""

import os
from pathlib import Path

PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """A process and all that descend from it; empty where it is not on this machine."""
    parents = {int(path.name): _stat(int(path.name)) for path in PROC.glob("[0-9]*")}
    found = [pid] if parents.get(pid) else []
    for member in found:  # grows meanwhile
        found += [child for child, fields in parents.items() if fields and int(fields[1]) == member]
    return found


def parent(pid: int, name: str) -> int | None:
    """Parent of a process that has this name, else None: it may be another machine's number."""
    fields = _stat(pid)
    if not fields or (PROC / str(pid) / "comm").read_text(encoding="utf-8").strip() != name:
        return None
    return int(fields[1])


def proportional_bytes(pids: list[int]) -> int:
    """Memory of processes, what several share counted once (PSS; RSS where that may not be read)."""
    return sum(_proportional(pid) for pid in pids)


def cpu_seconds(pids: list[int]) -> float:
    """Processor time of processes and of their children that have ended."""
    ticks = sum(sum(map(int, fields[11:15])) for fields in map(_stat, pids) if fields)
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes() -> int:
    """The most that this process ever had resident; 0 where the system does not tell."""
    return _status(os.getpid(), "VmHWM")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name before it may hold spaces


def _proportional(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return _status(pid, "VmRSS")
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _status(pid: int, field: str) -> int:
    try:
        lines = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
