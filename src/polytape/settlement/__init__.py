"""A method at work: its state, its memory, its compiled T x T part."""

from polytape.settlement.settlement import Settlement, check_private

__all__ = ["Settlement", "check_private"]
