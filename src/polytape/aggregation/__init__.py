"""A method at work: its state, its compiled T x T part."""

from polytape.aggregation.aggregator import Aggregation, Aggregator
from polytape.aggregation.options import check_examples, check_measure, check_private
from polytape.aggregation.saved import Owner, Saved, StateStore

__all__ = [
    "Aggregation",
    "Aggregator",
    "Owner",
    "Saved",
    "StateStore",
    "check_examples",
    "check_measure",
    "check_private",
]
