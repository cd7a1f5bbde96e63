"""What a misspelt name was probably meant to be."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: Any, known: Iterable[Any], cutoff: float = 0.3) -> str:
    """ " Did you mean 'x'?" with the known name that is nearest; empty if none is near enough.

    cutoff  how alike they must be, from 0 to 1

    >>> did_you_mean("decodr", ["encoder", "decoder"])
    " Did you mean 'decoder'?"
    """
    by_lower = {str(key).lower(): str(key) for key in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=cutoff)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""
