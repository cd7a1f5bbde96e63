"""Callbacks for `fit` of a `pt.Model`.

>>> import polytape as pt
>>> monitor = pt.callbacks.GradientMonitor("run", every=10)  # model.fit(..., callbacks=[monitor])
>>> monitor.every
10
"""

from polytape.training.diagnosis import StopOnNonfinite
from polytape.training.monitor import GradientMonitor

__all__ = ["GradientMonitor", "StopOnNonfinite"]
