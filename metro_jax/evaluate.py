"""Errors of a trained network on a split, beside the mean mesh.

Run:    python -m metro_jax.evaluate --workdir=RUN [--split=test]
          [--checkpoint=best|latest|STEP] [--config.eval.batch_size=64 ...]
Result: A table with its protocol in words, and RUN/eval/SPLIT.json.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line
from metro_jax import config as base
from metro_jax.data import datasets
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import assessment, evaluator, runs
from metro_jax.training import parallel
from metro_jax.training import step as steps

SPLITS = ("test", "validation", "train")
FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
  flags.DEFINE_enum("split", SPLITS[0], SPLITS, "Which examples.")
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  text = "Replaces settings of the run, key by key."
  try:
    config_flags.DEFINE_config_dict("config", base.get_config(), text)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    # Overrides are read while the flag is defined, before anything else can fail.
    sys.exit("evaluate: " + " ".join(str(error).replace("\\n", " ").split()))


def evaluate(
  workdir: pathlib.Path,
  split: str = SPLITS[0],
  which: str | int = "best",
  overrides: Mapping[str, Any] | None = None,
) -> assessment.Assessment:
  """Loads a run, measures it on a split and writes the JSON file.

  Args:
    workdir: Of the run.
    split: Of the run's dataset.
    which: The checkpoint: "best", "latest" or a step.
    overrides: Dotted config keys to other values.

  Returns:
    The errors, the baseline's and the protocol.
  """
  run = runs.load(workdir, which, overrides)
  parallel.check_batch_size("eval.batch_size", run.config.eval.batch_size)
  source = _open(run.config, split)
  train_source = datasets.open_training(run.config)
  network = run.network
  geometry = steps.make_geometry(
    network.body, network.levels, network.template, network.gendered
  )
  done = assessment.assess(
    evaluator.map_eval_step(network.model, geometry),
    parallel.replicate(run.variables),
    geometry,
    source,
    train_source,
    run.config,
    workdir,
    split,
  )
  assessment.write(done, workdir, run.step)
  return done


def _open(config: ConfigDict, split: str) -> Source:
  """The dataset that the run's config has for a split."""
  if split == "train":
    return datasets.open_training(config)
  return datasets.open_split(config, config.data[split])


def main(arguments: list[str]) -> int:
  command_line.expect_no_arguments(arguments)
  workdir = pathlib.Path(FLAGS.workdir).expanduser()
  which = runs.parse_checkpoint(FLAGS.checkpoint)
  overrides = config_flags.get_override_values(FLAGS["config"])
  done = evaluate(workdir, FLAGS.split, which, overrides)
  if jax.process_index() == 0:
    print(done.table())
    print(f"\nWritten to {workdir / assessment.FOLDER / FLAGS.split}.json")
  return 0


if __name__ == "__main__":
  define_flags()
  command_line.run("evaluate", main)
