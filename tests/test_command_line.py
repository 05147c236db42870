"""A command prints and writes any letter, whatever the locale and the terminal."""

import os
import subprocess
import sys

import pytest

SCRIPT = r"""
import pathlib, sys
from metro_jax import command_line
def main(arguments):
  print("5.1 \u2013 \xb1 \u2192", arguments[0], "\udce9")
  pathlib.Path(arguments[1]).write_text("\u2013 " + arguments[0])
  raise ValueError("expected \u2192, got \udce9")
command_line.run("name", main)
"""
ASCII = "5.1 \\u2013 \\xb1 \\u2192 \\xe9"
# Settings, the encoding of what is printed, and what that shows.
PLACES = {
  "UTF-8": ({}, "utf-8", "5.1 \u2013 \xb1 \u2192 \xe9"),
  "latin-1 terminal": (
    {"PYTHONIOENCODING": "latin-1"},
    "latin-1",
    "5.1 \\u2013 \xb1 \\u2192 \xe9",
  ),
  "ASCII terminal": ({"PYTHONIOENCODING": "ascii"}, "ascii", ASCII),
  "ASCII locale": (
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii",
    ASCII,
  ),
  "C locale": ({"LC_ALL": "C"}, "utf-8", "5.1 \u2013 \xb1 \u2192 \xe9"),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_letter_ends_a_command(tmp_path, place):
  settings, encoding, shown = PLACES[place]
  (tmp_path / "script.py").write_text(SCRIPT)
  made = subprocess.run(
    [sys.executable, tmp_path / "script.py", "\xe9".encode(), tmp_path / "table.md"],
    capture_output=True,
    env={
      "PYTHONPATH": os.pathsep.join(sys.path),
      "PATH": os.environ["PATH"],
      **settings,
    },
  )
  assert made.stdout.decode(encoding) == f"{shown} \\udce9\n"
  said = made.stderr.decode(encoding)
  assert said.startswith("name: expected ") and said.endswith(", got \\udce9\n")
  assert made.returncode == 1
  assert (tmp_path / "table.md").read_text("utf-8") == "\u2013 \xe9"


# What a command does in `main`, and whether it is its user who can mend it.
FAILURES = {
  "raised": ('raise ValueError("expected 1, got 2")', "expected 1, got 2"),
  "missing file": ('open("none.txt")', "No such file or directory: 'none.txt'"),
  "array": ("numpy.zeros(3).reshape(2)", "cannot reshape array of size 3"),
  "library": ("numpy.stack([])", "need at least one array to stack"),
  "jit": ("jax.jit(lambda x: x.reshape(2))(numpy.zeros(3))", "cannot reshape array"),
  "key": ("{}['scale']", "scale"),
}
USERS = ("raised", "missing file")
FAILING = r"""
import sys
import jax
import numpy
from absl import flags
from metro_jax import command_line
def main(arguments):
  {failure}
flags.DEFINE_string("workdir", "", "")
command_line.run("name", main)
"""


def failed(tmp_path, failure, *arguments):
  """The lines that a command which fails prints as errors."""
  (tmp_path / "script.py").write_text(FAILING.format(failure=failure))
  done = subprocess.run(
    [sys.executable, "script.py", *arguments], capture_output=True, text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, cwd=tmp_path,
  )  # fmt: skip
  assert done.returncode == 1
  assert done.stdout == ""
  return done.stderr.splitlines()


@pytest.mark.parametrize("name", FAILURES)
def test_a_users_error_is_one_line_and_a_defect_keeps_its_traceback(tmp_path, name):
  failure, text = FAILURES[name]
  (tmp_path / "run").mkdir()
  *others, line = failed(tmp_path, failure, "--workdir=run")
  assert not others
  assert text in line
  kept = tmp_path / "run" / "error.txt"
  if name in USERS:
    assert line.startswith("name: ") and "defect" not in line
    assert not kept.exists()
  else:
    assert line.startswith("name: a defect in the program: ")
    assert line.endswith("; its traceback is in run/error.txt")
    assert kept.read_text().startswith("Traceback (most recent call last):")
    assert failure in kept.read_text()


def test_a_defect_without_a_workdir_prints_its_traceback(tmp_path):
  first, *_, line = failed(tmp_path, FAILURES["array"][0], "--workdir=none")
  assert first == "Traceback (most recent call last):"
  assert line.endswith("; its traceback is above")
  assert not (tmp_path / "none").exists()


def test_debug_shows_the_traceback_of_a_users_error(tmp_path):
  first, *_, line = failed(tmp_path, FAILURES["raised"][0], "--debug")
  assert first == "Traceback (most recent call last):"
  assert line == "name: expected 1, got 2"
  first, *_, line = failed(tmp_path, "pass", "--nothing", "--debug")
  assert first.startswith("Traceback")
  assert "nothing" in line
