"""A new head fitted to data on what a frozen trunk makes of them, without a training framework."""

from converter.fitting.data import Dataset, open_data
from converter.fitting.features import feature_key, features
from converter.fitting.score import Score, predict
from converter.fitting.solve import is_linear, logistic, ridge, solve
from converter.fitting.split import expect_classes, split
from converter.imaging import Preprocess

__all__ = [
    "Dataset",
    "Preprocess",
    "Score",
    "expect_classes",
    "feature_key",
    "features",
    "is_linear",
    "logistic",
    "open_data",
    "predict",
    "ridge",
    "solve",
    "split",
]
