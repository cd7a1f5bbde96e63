"""What code asks tapes for: read off the code that opens one."""

import dis
from functools import cache
from types import CodeType

from polytape.engines import Asked

_ONE = {"gradient", "jacobian", "batch_jacobian"}
_SEVERAL = {"gradients"}
_EXPLANATION = {"explain"}


@cache
def asked_by(code: CodeType) -> Asked:
    """What may be asked of a tape that code opens.

    Code that asks tapes for one gradient, and never for those of several losses, gets TensorFlow's
    own to the last operation: nothing need stand ready beside it. Code that asks for nothing hands
    its tape on, and may want either.
    """
    names = _attributes(code)
    one, several = bool(names & _ONE), bool(names & _SEVERAL)
    return Asked(several=several or not one, explanation=bool(names & _EXPLANATION))


def _attributes(code: CodeType) -> set[str]:
    """The names of all attributes that code reads, and of the functions within it."""
    found = {
        str(step.argval)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD")
    }
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found.union(*map(_attributes, inner))
