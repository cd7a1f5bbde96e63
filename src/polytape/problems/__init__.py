"""Problems to try methods on: built-in ones, and one's own by `file.py:function`."""

from polytape.problems.problem import Problem
from polytape.problems.registry import load, names

__all__ = ["Problem", "load", "names"]
