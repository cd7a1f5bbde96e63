"""A method at work: its state, its memory, its compiled T x T part."""

from polytape.settlement.saved import Held, Owner, Saved
from polytape.settlement.settlement import Settlement, check_private

__all__ = ["Held", "Owner", "Saved", "Settlement", "check_private"]
