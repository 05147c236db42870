"""What the README tells a newcomer to type is what really runs."""

import pathlib
import re

import pytest

from metro_jax import config as base

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"


def commands() -> list[str]:
  """The lines of the README's blocks of commands."""
  blocks = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.DOTALL | re.M)
  shown = [text for language, text in blocks if not language]
  return [line for text in shown for line in text.splitlines() if line.strip()]


def test_the_readmes_test_command_is_what_continuous_integration_runs():
  last = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
  assert last.endswith("-m pytest")
  assert last in commands()


def test_the_first_command_trains_a_config_that_exists():
  first = commands()[0]
  config = re.search(r"--config=(\S+)", first).group(1)
  assert "metro_jax.train" in first
  assert (ROOT / config).is_file()


@pytest.mark.parametrize(
  "command", ["train", "evaluate", "predict", "export", "convert"]
)
def test_commands_in_the_readme_are_modules(command):
  text = README.read_text()
  assert f"python -m metro_jax.{command}" in text
  assert (ROOT / "metro_jax" / f"{command}.py").is_file()


def test_settings_in_the_readme_exist():
  named = re.findall(r"--config\.([\w.]+)=", README.read_text())
  assert named
  for key in named:
    section = base.get_config()
    for name in key.split("."):
      assert name in section, key
      section = section[name]
