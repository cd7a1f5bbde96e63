"""Which tests run on which backend. The first line that names a test's file or folder counts.

`pytest --share` runs the share of the backend that KERAS_BACKEND names; without it everything runs
that can. `tests/everywhere.py` runs the shares of all four.
"""

from pathlib import PurePosixPath

ENGINES = ("tensorflow", "jax", "torch")
NUMPY, TORCH = ("numpy",), ("torch",)

SHARES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    # in tests/              backends  why
    ("methods", NUMPY, "the maths, in full on the fastest; laws/test_same_answers.py has the rest"),
    ("linalg", NUMPY, "the same"),
    ("stages", NUMPY, "the same"),
    ("laws/test_rules.py", NUMPY, "arguments are checked in plain Python"),
    ("laws", ENGINES, "every law, and the answers of NumPy, on every method: compiled"),
    ("reports", TORCH, "tables and pictures are made of plain records"),
    ("diagnostics", TORCH, "the same"),
    ("problems", TORCH, "data from NumPy"),
    ("test_style.py", TORCH, "it reads the source"),
    ("test_types.py", TORCH, "it reads the source"),
    ("explain/test_command.py", TORCH, "the same on any backend"),
    ("test_cli.py", TORCH, "an experiment on any backend; lowest.py has the other two"),
    ("users/test_command_line_survives.py", TORCH, "the same"),
    ("training/test_compiled_is_eager.py", ("tensorflow", "jax"), "what compiles"),
    ("users/test_compare_resumes.py", TORCH, "the same"),
    (".", ENGINES, "gradients and training"),
)
# Tests with one of these marks run on all three engines, wherever `SHARES` would leave NumPy alone.
MARKS = {
    "engine": "needs gradients, hence TensorFlow, JAX or PyTorch",
    "draws": "maths that backends do not share, since each draws numbers of its own",
}


def backends(path: PurePosixPath, marks: set[str]) -> tuple[str, ...]:
    """Where a test runs. path: its file, from `tests/` on"""
    lines = (line for line in SHARES if path.is_relative_to(line[0]))
    chosen = next(lines)[1]
    return ENGINES if chosen == NUMPY and marks & MARKS.keys() else chosen
