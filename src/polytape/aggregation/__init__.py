"""A method at work: its state, its memory, its compiled T x T part."""

from polytape.aggregation.aggregator import Aggregator, check_private
from polytape.aggregation.saved import Owner, Saved, StateStore

__all__ = ["Aggregator", "Owner", "Saved", "StateStore", "check_private"]
