"""What moves between the devices and the host, and between processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


def start(program, *arguments, devices):
  count = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
    [sys.executable, HERE / program, HERE.parents[1], *map(str, arguments)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count},
  )


def test_a_save_on_eight_devices_brings_one_copy_of_the_state_to_the_host():
  process = start("host_copies.py", devices=8)
  asked, one_copy = map(int, process.communicate()[0].split())
  assert process.returncode == 0
  assert asked == one_copy == 5000 * 4 + 4


@pytest.fixture(scope="module")
def two():
  """What `of_two_processes.py` found in either process."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    port = found.getsockname()[1]
  begun = [start("of_two_processes.py", port, i, devices=2) for i in range(2)]
  printed = [process.communicate()[0] for process in begun]
  assert [process.returncode for process in begun] == [0, 0]
  return [json.loads(text.splitlines()[-1]) for text in printed]


@pytest.mark.parametrize("mapping", ("pmap", "shard_map"))
def test_a_step_reaches_over_processes_which_see_their_own_devices(two, mapping):
  first, second = (found[mapping] for found in two)
  # 0 + 1 + 2 + 3 and 10 + 11 + 12 + 13, twice.
  assert first["total"] == second["total"] == 2 * (6 + 46)
  assert (first["places"], second["places"]) == ([0, 11], [22, 33])
  assert (first["doubled"], second["doubled"]) == ([0, 2, 4, 6], [20, 22, 24, 26])
  assert first["donated"] and second["donated"]
