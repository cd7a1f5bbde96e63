"""Which objective trains which variables: declared, shown, and held against what is reached."""
