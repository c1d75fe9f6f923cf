"""Photographs -> aligned crops, made exactly as the service makes them: the pictures are the business of
``facemargin.preprocessing``; here are the walk, the worker processes, the choice among several faces and the report.
"""

from training.align.folder import align_folder
from training.align.report import REPORT_NAME, AlignReport
from training.align.workers import PHOTOGRAPH_LIMITS

__all__ = ["PHOTOGRAPH_LIMITS", "REPORT_NAME", "AlignReport", "align_folder"]
