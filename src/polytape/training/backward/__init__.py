"""The backward side of a step: update directions from a recording, by the cheapest way."""

from polytape.training.backward.recorded import Recorded
from polytape.training.backward.result import BackwardResult
from polytape.training.backward.ways import backward

__all__ = ["BackwardResult", "Recorded", "backward"]
