"""Callbacks for `fit`."""

from polytape.training.monitor import GradientMonitor

__all__ = ["GradientMonitor"]
