"""Every method answers as it does on NumPy, where `tests/methods` tests the maths in full.

Compiled as in training, with the usual settings on all matrices of the laws, and with others on
some of them; then step by step with the state.
"""
