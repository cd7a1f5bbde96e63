"""All methods and stages: by name, and what each says of itself."""

from polytape.catalogue.discovery import all_methods, catalogue, find, resolve

__all__ = ["all_methods", "catalogue", "find", "resolve"]
