"""The memory of the machine itself, where its CPU is the device."""

import os
import sys


def machine_memory() -> int | None:
    """In bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
