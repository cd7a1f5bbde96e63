"""Solvers on T x T matrices, in `keras.ops`, batched over leading axes, compiled with the step."""
