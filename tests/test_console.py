"""The installed command runs the modules' commands."""

import configparser
import pathlib
import subprocess
import sys

import pytest

from metro_jax import console

ROOT = pathlib.Path(__file__).parents[1]
START = "from metro_jax import console; console.main()"


def run(*arguments):
  command = [sys.executable, "-c", START, *arguments]
  return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_command_is_a_module_and_every_command_module_is_listed():
  starts = "command_line.run("
  modules = {
    path.stem
    for path in (ROOT / "metro_jax").glob("*.py")
    if starts in path.read_text() and path.stem != "command_line"
  }
  assert modules == set(console.COMMANDS)


def test_arguments_reach_the_command():
  done = run("predict", "--hand=left", "nowhere.jpg")
  assert done.returncode == 1
  assert "predict: --hand: expected a network of hands" in done.stderr


@pytest.mark.parametrize("given", [(), ("fly",)])
def test_what_is_no_command_is_told_in_one_line(given):
  done = run(*given)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith("metro-jax: expected one of predict, train")


def test_setup_installs_it():
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  scripts = setup["options.entry_points"]["console_scripts"].strip()
  assert scripts == "metro-jax = metro_jax.console:main"
