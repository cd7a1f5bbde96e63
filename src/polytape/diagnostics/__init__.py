"""Plain data about training: what reports read."""
