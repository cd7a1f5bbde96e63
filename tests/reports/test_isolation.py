import subprocess
import sys

CODE = """
import sys
import polytape.diagnostics.records, polytape.reports.figures, polytape.reports.tables
import polytape.reports.progress, polytape.reports.html.page, polytape.cli
loaded = {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""


def test_reports_and_the_command_line_load_no_framework():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
