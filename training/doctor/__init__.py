"""Checks of data sets, one kind a file; `CHECKS` lists them in the order of the report.

To add one, write a function from a `Case` to findings in a new file and add its line here and to docs/doctor.md.
"""

from collections.abc import Callable, Iterable

from facemargin.doctor import Finding, Request
from training.doctor.agreement import agreement_findings
from training.doctor.case import Case, DataSet
from training.doctor.colour import colour_findings
from training.doctor.duplicates import duplicate_findings
from training.doctor.exposure import exposure_findings
from training.doctor.identity import identity_findings
from training.doctor.labels import label_findings
from training.doctor.layout import layout_findings
from training.doctor.mislabels import mislabel_findings
from training.doctor.names import name_findings
from training.doctor.opening import open_case
from training.doctor.readability import readability_findings

CHECKS: dict[str, Callable[[Case], Iterable[Finding]]] = {
    "labels": label_findings,
    "names": name_findings,
    "reading": readability_findings,
    "pixel values": exposure_findings,
    "colour order": colour_findings,
    "alignment": layout_findings,
    "duplicates": duplicate_findings,
    "preprocessing": agreement_findings,
    "faces": identity_findings,
    "labels by face": mislabel_findings,
}
"""The checks by name; those that need a bundle say nothing without one."""


def examine(request: Request) -> list[Finding]:
    """Run every check on what a request names.

    Raises:
        FacemarginError: a path of the request cannot be used.
    """
    case = open_case(request)
    return [finding for check in CHECKS.values() for finding in check(case)]


__all__ = ["CHECKS", "Case", "DataSet", "examine"]
