import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from metro_jax.evaluation import gathering

# Process i has i + 1 examples, and together they have rows 2 0 | 1 3.
PROGRAM = """
import sys
import jax
import numpy as np
from metro_jax.evaluation import gathering

process = int(sys.argv[1])
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, process)
rows = [np.array([2]), np.array([0, 1])][process]
errors = {"a": rows.astype(np.float32) * 10, "b": np.float32([rows, rows + 0.5]).T}
index, joined = gathering.gather_examples(rows, errors)
assert index.tolist() == [0, 1, 2], index
assert joined["a"].tolist() == [0, 10, 20], joined
assert joined["b"].tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]], joined
print("agreed", flush=True)
"""


def test_one_process_has_its_examples_in_the_order_of_the_split():
  index, tree = gathering.gather_examples(
    np.array([3, 1]), {"a": np.array([30.0, 10.0])}
  )
  assert index.tolist() == [1, 3] and tree["a"].tolist() == [10.0, 30.0]


def test_two_processes_see_all_examples_of_both():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  root = str(pathlib.Path(gathering.__file__).parents[2])
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROGRAM, str(process), str(port)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for process in range(2)
  ]
  try:
    said = [process.communicate(timeout=240)[0] for process in started]
  except subprocess.TimeoutExpired:
    pytest.fail("the processes did not meet")
  finally:
    for process in started:
      process.kill()
  assert all("agreed" in text for text in said), said
