"""Row transforms and wrappers: methods made of, or acting around, other methods."""
