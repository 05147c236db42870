"""What moves between the devices and the host."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def test_a_save_on_eight_devices_brings_one_copy_of_the_state_to_the_host():
  done = subprocess.run(
    [sys.executable, HERE / "host_copies.py", HERE.parents[1]],
    check=True,
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
  )
  asked, one_copy = map(int, done.stdout.split())
  assert asked == one_copy == 5000 * 4 + 4
