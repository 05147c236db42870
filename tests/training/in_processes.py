"""The real train command with a tiny stand-in for the network; not a test itself.

python in_processes.py ROOT FLAGS... takes the flags of `metro_jax.train`. Everything
but the network and its body is real: data, steps, checkpoints, processes, logs.
"""

import json
import os
import pathlib
import signal
import sys

if __name__ == "__main__":
  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as train.py does
  sys.path.insert(0, sys.argv.pop(1))

from metro_jax import command_line, train
from metro_jax.body.template import make_template
from metro_jax.models import setup

HERE = pathlib.Path(__file__).parent
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
FLAGS = (
  f"--config={HERE.parents[1] / 'configs' / 'synthetic.py'}:tiny",
  "--config.train.num_steps=20",
  "--config.train.log_every=1",
  "--config.train.validate_every=10",
  "--config.train.checkpoint_every=5",
  "--config.train.pictures=0",
  "--config.data.read_threads=1",
  "--config.optimizer.frozen=()",
)


def build(config) -> setup.Network:
  """Instead of `setup.build`: a cloud of forty vertices and a network to match."""
  import on_devices

  body, levels = on_devices.make_body(), on_devices.make_levels()
  model = on_devices.StandIn(config.model.dropout)
  return setup.Network(model, body, levels, make_template(body, levels))


def note_rows(job, first, original=train._batches):
  """Instead of `train._batches`: the same, noting the rows that every step takes."""
  folder = pathlib.Path(os.environ["NOTE_ROWS"])
  with (folder / f"{job.team.index}.jsonl").open("a", buffering=1) as file:
    for number, batch in enumerate(original(job, first)):
      file.write(json.dumps([first + number + 1, batch.index.tolist()]) + "\n")
      yield batch


if __name__ == "__main__":
  setup.build = build
  if "NOTE_ROWS" in os.environ:
    train._batches = note_rows
  train.define_flags()
  command_line.run("train", train.main)
