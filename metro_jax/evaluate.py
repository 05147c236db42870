"""Errors of a trained network on a split, beside the mean mesh.

Run:    python -m metro_jax.evaluate --workdir=RUN [--split=test] [--tables] [--tta]
          [--checkpoint=best|latest|STEP] [--config.eval.batch_size=64 ...]
          [--worst=6] [--truth=FREIHAND_FOLDER]
Result: A table with its protocol in words, and in RUN/eval:
          SPLIT.json       all numbers; also per joint and per group of examples
          SPLIT.md         these as tables, with --tables, which prints them too
          SPLIT_worst.jpg  the examples with the largest errors
          SPLIT_pred.zip   on FreiHAND, the leaderboard's file
          SPLIT_scores.txt with --truth, what the leaderboard would say of it
        With --tta each picture is seen at config.eval.tta_scales and _rotations_deg.
        RUN may be gs://BUCKET/RUN.
"""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line, files
from metro_jax import config as base
from metro_jax.checkpoints import bucket, runs
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.cluster import parallel, processes
from metro_jax.data import datasets
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import (
  assessment,
  evaluator,
  examples,
  freihand,
  protocols,
  tables,
  tta,
)
from metro_jax.evaluation.assessment import Assessment
from metro_jax.evaluation.protocols import Protocol

SPLITS = ("test", "validation", "train")
WORST = 6
FLAGS = flags.FLAGS
Truth = tuple[np.ndarray, np.ndarray]  # joints and vertices, metres


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
  flags.DEFINE_enum("split", SPLITS[0], SPLITS, "Which examples.")
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  flags.DEFINE_bool("tables", False, "Also errors by joint and by group.")
  flags.DEFINE_bool("tta", False, "Test-time augmentation, as config.eval.tta_* say.")
  flags.DEFINE_integer("worst", WORST, "Examples of large errors to draw.", 0)
  flags.DEFINE_string("truth", "", "FreiHAND's folder with evaluation_*.json.")
  text = "Replaces settings of the run, key by key."
  try:
    config_flags.DEFINE_config_dict("config", base.get_config(), text)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    # Overrides are read while the flag is defined, before anything else can fail.
    sys.exit("evaluate: " + " ".join(str(error).replace("\\n", " ").split()))


class Options(NamedTuple):
  """What else to do than to measure and write the JSON file."""

  tables: bool = False
  tta: bool = False
  worst: int = 0  # examples to draw
  truth: str = ""  # FreiHAND's folder, to score its submission


class Outcome(NamedTuple):
  """What was measured and what to say of the files beside."""

  assessment: Assessment
  notes: tuple[str, ...]


def evaluate(
  workdir: str | os.PathLike[str],
  split: str = SPLITS[0],
  which: str | int = "best",
  overrides: Mapping[str, Any] | None = None,
  options: Options = Options(),  # noqa: B008
) -> Outcome:
  """Loads a run, measures it on a split and writes the files.

  Args:
    workdir: Of the run, also in a bucket.
    split: Of the run's dataset.
    which: The checkpoint: "best", "latest" or a step.
    overrides: Dotted config keys to other values.
    options: What else to do.

  Returns:
    The errors, the baseline's and the protocol; the same on every process.

  Raises:
    ValueError: If settings, data or checkpoint do not fit.
    FileNotFoundError: If the run, the dataset or the truth is not there.
  """
  run = runs.load(workdir, which, overrides)
  mean_mesh = f"{assessment.FOLDER}/{assessment.MEAN_MESH_FILE}"
  with RunFolder(workdir, jax.process_index() == 0, [mean_mesh]) as folder:
    return _evaluate(run, folder, split, options)


def _evaluate(
  run: runs.Run, folder: RunFolder, split: str, options: Options
) -> Outcome:
  config, network = run.config, run.network
  parallel.check_batch_size("eval.batch_size", config.eval.batch_size)
  source = _open(config, split)
  protocol = protocols.for_dataset(source.name, config)
  truth = _read_truth(options.truth, protocol, source)
  views = tta.make_views(config, network.body) if options.tta else None
  geometry = network.geometry
  true_joints = config.eval.true_joints
  eval_step = evaluator.map_eval_step(network.model, geometry, true_joints, views)
  predictions = freihand.Predictions() if protocol.family == "freihand" else None
  train_source = datasets.open_training(config)
  done = assessment.assess(
    run, eval_step, source, train_source, folder.local, split, views, predictions
  )
  path = assessment.write(done, folder.local, run.step)
  notes = [f"Written to {path}"]
  if predictions is not None:
    notes += _submit(predictions, truth, path.with_name(f"{split}_pred.zip"))
  if options.tables:
    notes += _write_tables(done, path.with_suffix(".md"))
  if options.worst:
    if views is not None:
      eval_step = evaluator.map_eval_step(network.model, geometry, true_joints)
    rows = [choice.row for choice in examples.worst(done.results, options.worst)]
    faces, variables = network.body.faces, parallel.replicate(run.variables)
    drawn = examples.draw(eval_step, variables, source, rows, faces, config)
    notes += _write_worst(drawn, path.with_name(f"{split}_worst.jpg"))
  return Outcome(done, tuple(folder.told(note) for note in notes))


def _open(config: ConfigDict, split: str) -> Source:
  """The dataset that the run's config has for a split."""
  if split == "train":
    return datasets.open_training(config)
  return datasets.open_split(config, config.data[split])


def _read_truth(folder: str, protocol: Protocol, source: Source) -> Truth | None:
  """FreiHAND's ground truth, before anything is computed."""
  if not folder:
    return None
  if protocol.family != "freihand":
    raise ValueError(f"--truth: expected a FreiHAND dataset, got {source.name}")
  truth = freihand.read_truth(folder)
  if len(truth[0]) != len(source):
    raise ValueError(
      f"--truth: expected the {len(source)} examples of {source.name} in {folder}, "
      f"got {len(truth[0])}"
    )
  return truth


def _submit(
  predictions: freihand.Predictions, truth: Truth | None, path: pathlib.Path
) -> list[str]:
  """Writes the leaderboard's file, and its scores where the truth is known."""
  predicted = predictions.everywhere()
  if jax.process_index() != 0:
    return []
  freihand.write_zip(path, *predicted)
  notes = [f"For the leaderboard: {path}"]
  if truth is not None:
    text = freihand.format_scores(freihand.score(*predicted, *truth))
    scores = path.with_name(path.name.replace("_pred.zip", "_scores.txt"))
    with files.replacing(scores) as partial:
      partial.write_text(text + "\n")
    notes.append(f"The leaderboard's scores, in {scores}:\n{text}")
  return notes


def _write_tables(done: Assessment, path: pathlib.Path) -> list[str]:
  if done.tables is None:
    return []
  text = tables.as_markdown(done.tables)
  words = protocols.describe(done.protocol)
  with files.replacing(path) as partial:
    partial.write_text(f"{text}\n\n{words}\n")
  return [f"{text}\n", f"Tables: {path}"]


def _write_worst(drawn: Sequence[examples.Drawn], path: pathlib.Path) -> list[str]:
  if jax.process_index() != 0 or not drawn:
    return []
  _, jpeg = cv2.imencode(".jpg", examples.as_sheet(drawn)[..., ::-1])
  with files.replacing(path) as partial:
    partial.write_bytes(jpeg.tobytes())
  return [f"Worst examples: {path}"]


def main(arguments: list[str]) -> int:
  command_line.expect_no_arguments(arguments)
  bucket.expect_usable(FLAGS.workdir)
  which = runs.parse_checkpoint(FLAGS.checkpoint)
  processes.join(processes.find())
  overrides = config_flags.get_override_values(FLAGS["config"])
  options = Options(FLAGS.tables, FLAGS.tta, FLAGS.worst, FLAGS.truth)
  done = evaluate(FLAGS.workdir, FLAGS.split, which, overrides, options)
  if jax.process_index() == 0:
    print("\n".join([done.assessment.table(), "", *done.notes]))
  return 0


if __name__ == "__main__":
  define_flags()
  command_line.run("evaluate", main)
