"""`tf.GradientTape` with what several losses need, in loops of one's own on TensorFlow."""

from polytape.tape.gradient_tape import GradientTape

__all__ = ["GradientTape"]
