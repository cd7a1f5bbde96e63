"""Makes `tests/` importable, for `from compiled import compiled`."""
