"""Examples of a split to look at: which, and drawn as input | overlay | side view."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from metro_jax.cluster import parallel
from metro_jax.data import pipeline
from metro_jax.data.pipeline import Source
from metro_jax.data.schema import Example
from metro_jax.evaluation import metrics, protocols, second_pass
from metro_jax.evaluation.evaluator import MappedEvalStep, Results
from metro_jax.rendering import overlay, report

SMALLEST_PX = 224
CAPTIONS = ("input", "predicted mesh", "from the side")


class Choice(NamedTuple):
  """An example and why it is shown."""

  label: str
  row: int


class Drawn(NamedTuple):
  """One example's pictures, as `CAPTIONS` names them, and its errors."""

  row: int
  images: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
  errors: dict[str, float]


class Rows:
  """Some rows of a split, as a split."""

  def __init__(self, source: Source, rows: Sequence[int]):
    self._source, self._rows = source, rows
    self.name = source.name

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, row: int) -> Example:
    return self._source[self._rows[row]]


def choose(results: Results, count: int, metric: str = "mpjpe_mm") -> list[Choice]:
  """Picks examples that show a network as it is: mostly typical, some extreme.

  Of every six, one is the best and one the worst not yet taken; the rest lie at equal
  ranks between them, the median among them.

  Args:
    results: Of the split.
    count: How many; fewer if the split has fewer.
    metric: By which they are ranked; examples without it are left out.

  Returns:
    Typical examples first, then the best, then the worst.
  """
  errors = results.errors[metric]
  order = np.argsort(errors, kind="stable")[: int(np.isfinite(errors).sum())]
  count = min(count, len(order))
  extremes = min(max(1, count // 6), (count - 1) // 2) if count > 1 else 0
  best, worst = order[:extremes], order[len(order) - extremes :][::-1]
  middle = order[extremes : len(order) - extremes]
  typical = middle[_spread(len(middle), count - 2 * extremes)]
  groups = (("typical", typical), ("best", best), ("worst", worst))
  return [
    Choice(label, int(results.rows[i])) for label, picked in groups for i in picked
  ]


def worst(results: Results, count: int, metric: str = "mpjpe_mm") -> list[Choice]:
  """Picks the examples with the largest errors, largest first.

  Args:
    results: Of the split.
    count: How many; fewer if fewer have the metric.
    metric: By which they are ranked; one that is smaller for better predictions.
  """
  errors = results.errors[metric]
  order = np.argsort(-errors, kind="stable")[: int(np.isfinite(errors).sum())]
  return [Choice("worst", int(results.rows[i])) for i in order[:count]]


def _spread(length: int, count: int) -> Int[np.ndarray, " n"]:
  """Places at the middles of equal parts of a list."""
  return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(int)


def draw(
  eval_step: MappedEvalStep,
  variables: Any,
  source: Source,
  rows: Sequence[int],
  faces: Int[np.ndarray, "f 3"],
  config: ConfigDict,
) -> list[Drawn]:
  """Runs the network on some rows of a split and draws what it says.

  Args:
    eval_step: Made by `evaluator.map_eval_step`.
    variables: The network's, replicated.
    source: The split.
    rows: Which examples; the same on all processes. The first one draws them.
    faces: Of the full mesh.
    config: Uses `data` and `eval.batch_size`, so that nothing compiles anew.

  Returns:
    In the order of the rows; nothing on the other processes.
  """
  drawn: list[Drawn] = []
  share = ConfigDict(config.to_dict())
  share.eval.batch_size = config.eval.batch_size // jax.process_count()
  shown = Rows(source, rows)
  eval_step = second_pass.of_split(eval_step, shown, config)
  for batch in pipeline.eval_batches(shown, share) if len(rows) else ():
    done = eval_step(variables, parallel.shard(batch))
    if jax.process_index() != 0:
      continue
    predicted, errors = parallel.gather((done.predicted, done.errors))
    for i in np.flatnonzero(batch.valid):
      mesh, camera = predicted.vertices[i], predicted.camera[i]
      images = draw_one(batch.image[i], mesh, camera, faces)
      numbers = {name: float(values[i]) for name, values in errors.items()}
      drawn.append(Drawn(int(rows[len(drawn)]), images, numbers))
  return drawn


def draw_one(
  image: UInt8[np.ndarray, "h w 3"],
  vertices_m: Float[np.ndarray, "v 3"],
  camera: Float[np.ndarray, "3"],
  faces: Int[np.ndarray, "f 3"],
) -> tuple[UInt8[np.ndarray, "side side 3"], ...]:
  """Draws the crop, the mesh over it and the mesh from the side, of equal size.

  A small crop is enlarged first, so that the mesh is drawn finely.
  """
  faces = np.asarray(faces)
  times = -(-SMALLEST_PX // image.shape[0])
  if times > 1:
    image = cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
  return (
    image,
    overlay.overlay(image, vertices_m, faces, camera),
    overlay.side_view(vertices_m, faces, image.shape[0]),
  )


def as_sheet(drawn: Sequence[Drawn]) -> UInt8[np.ndarray, "h w 3"]:
  """Joins all examples in one picture, one a row; for TensorBoard."""
  images = [image for one in drawn for image in one.images]
  captions = []
  for one in drawn:
    error = f"MPJPE {one.errors['mpjpe_mm']:.0f} mm"
    captions += [f"row {one.row}", error, CAPTIONS[2]]
  return overlay.contact_sheet(images, len(CAPTIONS), captions, cell_px=224)


def as_pictures(
  drawn: Sequence[Drawn], choices: Sequence[Choice], split: str
) -> list[report.Picture]:
  """Gives the examples as the report shows them."""
  pictures = []
  for one, choice in zip(drawn, choices, strict=True):
    errors = {
      protocols.METRICS[name].title: f"{one.errors[name]:.1f} mm"
      for name in metrics.NAMES
    }
    title = f"{choice.label.capitalize()}: {split}/{one.row}"
    pictures.append(report.Picture(title, one.images, CAPTIONS, errors))
  return pictures
