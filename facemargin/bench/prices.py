"""What machines cost: assumptions, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """What is paid, USD. Assumptions: round figures of the order of public on-demand prices; put in your own.

    Attributes:
        vcpu_hour: of one virtual processor, taken for one core of the measuring machine.
        ram_gb_hour: of 10^9 bytes of memory.
        disk_gb_month: of 10^9 bytes of SSD.
        gpu_hour: of one GPU with the machine around it.
    """

    vcpu_hour: float = 0.04
    ram_gb_hour: float = 0.005
    disk_gb_month: float = 0.10
    gpu_hour: float = 3.0
