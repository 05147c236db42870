"""Compiled programs are kept where the user keeps such things, or nowhere."""

import os
import pathlib
import subprocess
import sys

import pytest

from metro_jax import compiled

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = """
import jax, sys
from metro_jax import command_line
def main(arguments):
  jax.jit(lambda x: x * 3)(1.0).block_until_ready()
  print(jax.config.jax_compilation_cache_dir)
command_line.run("name", main)
"""


def run(tmp_path, **variables):
  """What a command says that compiles a program; all its programs are kept."""
  clean = {k: v for k, v in os.environ.items() if k != compiled.VARIABLE}
  variables = {
    "HOME": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PLATFORMS": "cpu",
    **variables,
  }
  script = tmp_path / "script.py"
  script.write_text(COMMAND)
  done = subprocess.run(
    [sys.executable, script],
    capture_output=True,
    text=True,
    env={**clean, "PYTHONPATH": str(ROOT), **variables},
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  return done.stdout.strip()


def programs(folder):
  return [path for path in folder.rglob("*-cache") if path.is_file()]


def test_they_are_kept_in_the_users_cache_folder_and_read_again(tmp_path):
  kept = tmp_path / "mine"
  folder = run(tmp_path, XDG_CACHE_HOME=str(kept))
  assert pathlib.Path(folder).parent == kept / "metro_jax" / "compiled"
  written = {path: path.stat().st_mtime_ns for path in programs(kept)}
  assert written
  for path in written:  # as of a start that was killed while it wrote
    path.write_bytes(path.read_bytes()[:20])
  run(tmp_path, XDG_CACHE_HOME=str(kept))  # says nothing of it
  assert set(programs(kept)) == set(written)


def test_jaxs_variable_moves_them_and_turns_it_off(tmp_path):
  assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "moved"))
  assert programs(tmp_path / "moved")
  assert run(tmp_path, JAX_COMPILATION_CACHE_DIR="") in ("", "None")
  assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize("place", ["file", "closed"])
def test_a_folder_that_cannot_be_written_is_not_used(tmp_path, place, monkeypatch):
  (tmp_path / "file").write_text("")
  (tmp_path / "closed").mkdir(mode=0o500)
  monkeypatch.delenv(compiled.VARIABLE)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
  monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
  compiled.keep()
  assert compiled.VARIABLE not in os.environ
  assert run(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file")) == "None"


def test_processors_of_one_home_have_folders_of_their_own(monkeypatch):
  monkeypatch.setattr(compiled, "_processor", lambda: b"flags: sse2 avx2")
  first = compiled.default_folder()
  monkeypatch.setattr(compiled, "_processor", lambda: b"flags: sse2 avx2 avx512f")
  assert compiled.default_folder() != first
  assert compiled.default_folder().parent == first.parent
