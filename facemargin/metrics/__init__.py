"""Measures of recognition: verification (1:1), identification (1:N), calibration, and their intervals.

Everything here takes arrays of similarities or embeddings and knows no images, models or torch.
"""

from facemargin.metrics.calibration import (
    Calibration,
    ImpostorCurve,
    Threshold,
    ThresholdRow,
    calibrate,
    calibrate_scores,
)
from facemargin.metrics.identification import FnirAtFpir, Identification, cmc, fnir_at_fpir, identify
from facemargin.metrics.intervals import (
    Interval,
    accuracy_statistic,
    auc_statistic,
    difference_interval,
    eer_statistic,
    interval,
    people_weights,
    tar_statistic,
)
from facemargin.metrics.pairs import PairScores, all_pairs
from facemargin.metrics.tail import Tail
from facemargin.metrics.verification import (
    KFold,
    Roc,
    TarAtFar,
    auc,
    eer,
    halves_accuracy,
    kfold_accuracy,
    roc,
    tar_at_far,
)

__all__ = [
    "Calibration",
    "FnirAtFpir",
    "Identification",
    "ImpostorCurve",
    "Interval",
    "KFold",
    "PairScores",
    "Roc",
    "Tail",
    "TarAtFar",
    "Threshold",
    "ThresholdRow",
    "accuracy_statistic",
    "all_pairs",
    "auc",
    "auc_statistic",
    "calibrate",
    "calibrate_scores",
    "cmc",
    "difference_interval",
    "eer",
    "eer_statistic",
    "fnir_at_fpir",
    "halves_accuracy",
    "identify",
    "interval",
    "kfold_accuracy",
    "people_weights",
    "roc",
    "tar_at_far",
    "tar_statistic",
]
