"""One file per published method. `polytape.catalogue` finds them; nothing is listed here."""
