"""Records as strict JSON, which has no NaN: what is not finite is null."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """A nest for JSON: keys are text, numbers that are not finite None.

    Args:
        value: of dicts, lists, tuples and what JSON knows

    Returns:
        The same of dicts and lists.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def numbers(value: Any) -> Any:
    """The nest that was read, with NaN for None.

    Args:
        value: of dicts, lists and what JSON knows

    Returns:
        The same.
    """
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return math.nan if value is None else value
