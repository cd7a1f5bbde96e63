"""The whole check: linters, types, layers, and the suite, each backend with its share of it.

python tests/everywhere.py [BACKEND ...]      all of BACKENDS if none is named
python tests/everywhere.py --full             all that can run on a backend, not its share only
XLA_FLAGS= python tests/everywhere.py         with XLA's own settings, slower

`tests/helpers/shares.py` says what runs where.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("numpy", "torch", "tensorflow", "jax")
STATIC = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
# One process at a time compiles on one core only. PyTorch's processes get one thread each, or they
# would fight over the cores. `conftest.py` orders the groups of tests so that all processes end at
# about the same time.
SPREAD = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadgroup", "--no-loadscope-reorder")
# Most of the time is XLA's compiling small functions that run once or twice. Without optimisation,
# in one piece and by its older emitters it takes a fraction of it, and the results are right within
# rounding. Tests marked `bits` ask for more: they run apart, with the settings that users have.
QUICK = os.environ.get(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_use_fusion_emitters=false",
)
# Another version of XLA may not know such a flag, and ends the process.
STARTS = {
    "jax": "import jax; jax.numpy.zeros(1)",
    "tensorflow": "import tensorflow as t; t.function(lambda: t.zeros(1), jit_compile=True)()",
}


def quick(backend: str, python: str = sys.executable) -> str:
    """XLA flags for tests that compile quickly; none if this version does not take them."""
    settings = {**os.environ, "XLA_FLAGS": QUICK}
    started = subprocess.run(
        (python, "-c", STARTS[backend]), env=settings, capture_output=True, check=False
    )
    if started.returncode:
        print(f"XLA does not start with {QUICK}: {backend} is tested with XLA's own settings.")
    return "" if started.returncode else QUICK


def run(title: str, command: tuple[str, ...], **environment: str) -> bool:
    print(f"\n== {title}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    here = Path(sys.executable).parent
    path = f"{here}{os.pathsep}{os.environ.get('PATH', '')}"
    settings = {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    code = subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode
    print(
        f"== {title}: {'ok' if code == 0 else f'FAILED ({code})'}, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return code == 0


def parts(backend: str) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Title, arguments of pytest and environment of each process that tests a backend."""
    if backend in ("numpy", "torch"):
        yield f"suite on {backend}", (), {"OMP_NUM_THREADS": "1"}
        return
    # What XLA has compiled is kept until its process ends: the laws get processes of their own.
    fast = {"XLA_FLAGS": quick(backend)}
    yield f"laws on {backend}", ("tests/laws",), fast
    yield f"all but the laws on {backend}", ("--ignore=tests/laws", "-m", "not bits"), fast
    yield f"bits on {backend}", ("-m", "bits"), {"XLA_FLAGS": ""}


def main(arguments: list[str]) -> int:
    share = ("--share",) if "--full" not in arguments else ()
    backends = [name for name in arguments if name != "--full"]
    unknown = set(backends) - set(BACKENDS)
    if unknown:
        print(f"Unknown backend: {', '.join(sorted(unknown))}. Expected some of {BACKENDS}.")
        return 2
    results = {" ".join(command): run("static", command) for command in STATIC}
    for backend in backends or BACKENDS:
        for title, chosen, settings in parts(backend):
            command = (sys.executable, "-m", "pytest", "--durations=8", *SPREAD, *share, *chosen)
            results[title] = run(title, command, KERAS_BACKEND=backend, **settings)
    lines = [f"{'ok    ' if ok else 'FAILED'}  {name}" for name, ok in results.items()]
    print("\n" + "\n".join(lines))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
