"""Evaluation as prediction in two passes: the second sees what the first framed."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from metro_jax.body import camera
from metro_jax.cluster import parallel
from metro_jax.data import framing, pipeline
from metro_jax.data.framing import Frame
from metro_jax.data.pipeline import Source
from metro_jax.evaluation.eval_step import Evaluation
from metro_jax.evaluation.evaluator import MappedEvalStep
from metro_jax.models.forward import Predicted


def of_split(
  eval_step: MappedEvalStep, source: Source, config: ConfigDict
) -> MappedEvalStep:
  """Gives an eval step the passes that `config.data.passes` asks for.

  Args:
    eval_step: Made by `evaluator.map_eval_step`.
    source: The split whose batches it will see.
    config: Uses `data` and `body.model`.

  Returns:
    The same step for one pass. For two, a step that runs it twice: errors are those
    of the second pass, meshes and cameras are told in terms of the given batch.
  """
  if config.data.passes == 1:
    return eval_step

  def step(variables: Any, batch: Any) -> Evaluation:
    rows = np.asarray(batch.index).ravel().tolist()
    boxes = {row: _box(source[row]) for row in rows if row >= 0}
    first = eval_step(variables, batch)
    frames = _frames(first.predicted, rows, boxes)
    again = pipeline.framed_batch(source, rows, frames, config)
    done = eval_step(variables, parallel.shard(again))
    return done._replace(predicted=_turned_back(done.predicted, rows, frames, boxes))

  return step


def _box(example: Any) -> Frame:
  center_px = np.asarray(example["center_px"], np.float64)
  return Frame(center_px, float(example["box_px"]), 0.0)


def _frames(
  first: Predicted, rows: list[int], boxes: dict[int, Frame]
) -> dict[int, Frame]:
  """The second pass's square of every row."""
  joints, cameras = parallel.gather((first.joints, first.camera))
  seen = camera.weak_perspective(joints, cameras).astype(np.float64)
  frames = {}
  for row, crop in zip(rows, seen, strict=True):
    if row in boxes:
      box = boxes[row]
      px = camera.crop_to_pixels(crop, box.center_px, np.array(box.side_px))
      frames[row] = framing.upright(px)
  return frames


def _turned_back(
  predicted: Predicted,
  rows: list[int],
  frames: dict[int, Frame],
  boxes: dict[int, Frame],
) -> Predicted:
  """Tells meshes and cameras in their first squares' terms."""
  cameras, *arrays = (np.array(array) for array in predicted)
  flat = cameras.reshape(-1, 3)
  given = flat.copy()
  for array in arrays:
    points = array.reshape(-1, *array.shape[-2:])
    for n, row in enumerate(rows):
      if row in frames:
        points[n], flat[n] = framing.turn_back(
          points[n], given[n], frames[row], boxes[row]
        )
  return Predicted(cameras, *arrays)
