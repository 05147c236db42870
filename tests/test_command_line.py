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
