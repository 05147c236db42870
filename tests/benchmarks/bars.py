"""Whether the bars that the project sets itself are met on this machine.

Run:    python -m tests.benchmarks.bars --config=configs/synthetic.py
          [--questions=input,pmap,saving] [--seconds=5]
Result: A ratio and its bar for each question, beside what was timed:
        input: seconds of one core for the original's per-sample code over ours;
        pmap: a mapped training step over a plain `jit`, on one device;
        saving: a step beside an asynchronous save over one alone.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from metro_jax.benchmarking import input_speed, pictures, runners, timing
from metro_jax.cluster import parallel
from metro_jax.data.pipeline import Source
from metro_jax.planning import stand_in
from tests.benchmarks import original_input, plain_jit, saving


def input_over_original(
  config: ConfigDict, budget_s: float, examples: int = input_speed.EXAMPLES
) -> dict[str, timing.Timing]:
  """Decodes and augments the same photographs our way and the original's, in turn."""
  size = min(config.train.batch_size, examples)
  source, sized = input_speed.stored(config), pictures.with_size(config, size)
  batches = examples // size
  runs = {
    "original": original(source, sized, batches),
    "ours": input_speed.one_core(source, sized, batches),
  }
  return timing.interleaved(runs, budget_s, time.process_time)


def original(source: Source, config: ConfigDict, batches: int) -> Callable[[], None]:
  """Returns what makes the same batches the original's way each time."""
  size, rng = config.train.batch_size, np.random.default_rng(0)

  def read() -> None:
    for first in range(0, batches * size, size):
      original_input.batch(source, range(first, first + size), config, rng)

  return read


def pmap_over_jit(config: ConfigDict, budget_s: float) -> dict[str, timing.Timing]:
  """Takes training steps under `pmap` and under plain `jit`, in turn."""
  if jax.local_device_count() != 1:
    raise ValueError("pmap: expected one device, as a plain jit has")
  network = stand_in.build(config).network
  start = runners.fresh_state(config, network)
  _, mapped = runners.training(config, network, start)
  runs = {"pmap": mapped, "jit": plain_jit.training(config, network, start)}
  return timing.interleaved(runs, 2 * budget_s)


def beside_save_over_alone(
  config: ConfigDict, budget_s: float
) -> dict[str, timing.Timing]:
  """Takes training steps beside a save and without one."""
  network = stand_in.build(config).network
  start = runners.fresh_state(config, network)
  found = saving.measure(runners.training(config, network, start)[1], budget_s)
  return {
    "beside": found.beside,
    "alone": found.alone,
    "handing over": found.handing_over,
  }


# What answers a question, by the ratio of its first two times; and the ratio's bar.
QUESTIONS = {
  "input": (input_over_original, 3.0, "at least"),
  "pmap": (pmap_over_jit, 1.02, "at most"),
  "saving": (beside_save_over_alone, 1.2, "at most"),
}


def text(question: str, found: dict[str, timing.Timing]) -> str:
  """Returns the lines that say what was found, and whether the bar was missed."""
  _, bar, side = QUESTIONS[question]
  lines = [
    f"  {name}: {1e3 * taken.seconds:,.2f} ms, "
    f"±{taken.spread / 2:.0%} of {taken.repeats}"
    for name, taken in found.items()
  ]
  first, second, *_ = found
  ratio = found[first].seconds / found[second].seconds
  missed = ratio > bar if side == "at most" else ratio < bar
  bar_text = f"(bar: {side} {bar:g}{', missed' if missed else ''})"
  return "\n".join([f"{first} over {second}: {ratio:.3f} {bar_text}", *lines])


def main(arguments: list[str]) -> None:
  del arguments
  config = flags.FLAGS.config
  parallel.check_batch_size("train.batch_size", config.train.batch_size)
  for question in flags.FLAGS.questions:
    found = QUESTIONS[question][0](config, flags.FLAGS.seconds)
    print(text(question, found), flush=True)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "What to time.", lock_config=True)
  flags.mark_flag_as_required("config")
  flags.DEFINE_list("questions", list(QUESTIONS), "What to settle.")
  flags.DEFINE_float("seconds", 5.0, "Seconds to repeat each measurement for.")
  app.run(main)
