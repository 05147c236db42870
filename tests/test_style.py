"""The code is formatted, lint-free and typed."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CHECKS = {
  "lint": ("ruff", "check", "."),
  "format": ("ruff", "format", "--check", "."),
  "types": ("mypy",),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_nothing_is_left_to_say_by(check):
  done = subprocess.run(
    [sys.executable, "-m", *check],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
