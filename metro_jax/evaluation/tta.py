"""Test-time augmentation: a picture seen in several ways, the answers averaged.

Each view is a crop of another scale, turn or mirror. What the network says of it is
turned and mirrored back, aligned by its best similarity to what it says of the
unchanged crop, and averaged. Meshes and joints are aligned apart, as the original
code does; all views of some examples go through the network as one batch.

Source: original code, metro/tools/run_hand_multiscale.py, which starts a process for
  each view of hands and joins their files.
"""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from metro_jax.body import body_model
from metro_jax.body.body_model import BodyModel
from metro_jax.data import augment, jpegs, pipeline, released_crop
from metro_jax.data.augment import Augmentation
from metro_jax.data.batch import Batch
from metro_jax.data.pipeline import Source
from metro_jax.data.schema import Example
from metro_jax.evaluation import eval_step, metrics, mirror
from metro_jax.evaluation.eval_step import Evaluation
from metro_jax.evaluation.mirror import Mirror
from metro_jax.models.forward import predict
from metro_jax.models.setup import Geometry

Array = Any  # np.ndarray or jax.Array
_BATCHES_AHEAD = 2


class Views(NamedTuple):
  """What a picture is seen as; the first view is the unchanged one.

  Attributes:
    augmentations: One a view.
    mirror: Undoes a flip; None without flips.
    first_twice: Whether the unchanged view counts twice, as in the original code.
  """

  augmentations: tuple[Augmentation, ...]
  mirror: Mirror | None
  first_twice: bool


class ViewBatch(NamedTuple):
  """Examples as `Batch` and their other views' crops, (b, views - 1, px, px, 3)."""

  batch: Batch
  crops: Array

  @property
  def valid(self) -> Array:
    """Which examples are none that fill up a batch."""
    return self.batch.valid

  @property
  def index(self) -> Array:
    """The examples' rows."""
    return self.batch.index


def make_views(config: ConfigDict, body: BodyModel) -> Views:
  """Makes every scale with every rotation, each also mirrored if flips are wanted.

  Args:
    config: The whole config; uses `eval`.
    body: With NumPy arrays.

  Raises:
    ValueError: If flips are wanted of a hand or of a body that is not symmetric.
  """
  c = config.eval
  if c.tta_flip and body.is_hand:
    raise ValueError(
      "config.eval.tta_flip: expected False of a hand (a mirrored right hand is a left "
      "one), got True"
    )
  found = mirror.find(body) if c.tta_flip else None
  flips = (False, True) if c.tta_flip else (False,)
  grid = itertools.product(flips, c.tta_scales, c.tta_rotations_deg)
  gain = np.ones(3, np.float32)
  all_views = [
    Augmentation(float(scale), float(np.deg2rad(degrees)), flip, gain)
    for flip, scale, degrees in grid
  ]
  others = [view for view in all_views if view[:3] != (1.0, 0.0, False)]
  augmentations = (augment.identity(), *others)
  return Views(augmentations, found, c.averaging == "released")


def describe(config: ConfigDict) -> str:
  """Says the views in words, as the protocol states them."""
  c = config.eval
  scales = ", ".join(f"{scale:g}" for scale in c.tta_scales)
  degrees = ", ".join(f"{angle:g}" for angle in c.tta_rotations_deg)
  flips = "each also mirrored" if c.tta_flip else "no flips"
  twice = ", the unchanged view counted twice" if c.averaging == "released" else ""
  return f"scales {scales} of the box, rotations {degrees} degrees, {flips}{twice}"


def batches(
  source: Source,
  config: ConfigDict,
  views: Views,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[ViewBatch]:
  """Gives every example once with all of its views, this process's share.

  As many examples a device as make up its part of `config.eval.batch_size` with their
  views, and at least one.

  Args:
    source: The split.
    config: Uses `data` and `eval`.
    views: Of each example.
    process_index: As for `pipeline.eval_batches`.
    process_count: As for `pipeline.eval_batches`.
  """
  config = ConfigDict(config.to_dict())
  config.eval.batch_size = batch_size(config, views)
  others = views.augmentations[1:]
  px, arithmetic = config.data.image_px, config.data.crop

  def see(row: int) -> np.ndarray:
    if row < 0:
      return np.zeros((len(others), px, px, 3), np.uint8)
    return crops(source[row], others, px, arithmetic)

  waiting: collections.deque = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(config.data.read_threads) as pool:
    for batch in pipeline.eval_batches(source, config, process_index, process_count):
      seen = [pool.submit(see, int(row)) for row in batch.index]
      waiting.append((batch, seen))
      if len(waiting) > _BATCHES_AHEAD:
        yield _joined(*waiting.popleft())
    while waiting:
      yield _joined(*waiting.popleft())


def _joined(batch: Batch, seen: Sequence[concurrent.futures.Future]) -> ViewBatch:
  return ViewBatch(batch, np.stack([future.result() for future in seen]))


def batch_size(config: ConfigDict, views: Views) -> int:
  """Examples that all devices take at once."""
  devices = jax.device_count()
  pictures = config.eval.batch_size // devices
  return devices * max(1, pictures // len(views.augmentations))


def crops(
  example: Example,
  augmentations: Sequence[Augmentation],
  crop_px: int,
  arithmetic: str = "exact",
) -> UInt8[np.ndarray, "k crop_px crop_px 3"]:
  """Makes the crops that `augment.apply` makes of an example, decoded once.

  Args:
    example: As stored.
    augmentations: The views.
    crop_px: Side of a crop.
    arithmetic: As for `augment.apply`.
  """
  if arithmetic == "released":
    image = augment.decode(example["image"])
    boxes = [augment.released_box(example, a, crop_px) for a in augmentations]
    made = [np.rint(released_crop.crop(image, *box)) for box in boxes]
    return np.array(made, np.uint8).reshape(-1, crop_px, crop_px, 3)
  scale = min((a.scale for a in augmentations), default=1.0)
  finest = scale * float(example["box_px"]) / crop_px
  reduction = next(n for n in jpegs.REDUCTIONS if n <= max(finest, 1))
  image = augment.decode(example["image"], reduction)
  affines = (
    augment.crop_affine(example["center_px"], example["box_px"], a, crop_px)
    for a in augmentations
  )
  made = [augment.crop(image, affine, crop_px, reduction) for affine in affines]
  return np.array(made, np.uint8).reshape(-1, crop_px, crop_px, 3)


def make_eval_step(
  model: nn.Module, views: Views, true_joints: str = "labels"
) -> Callable[[dict[str, Any], ViewBatch, Geometry], Evaluation]:
  """As `eval_step.make_eval_step`, of averaged predictions.

  Args:
    model: The network.
    views: Those of the batches.
    true_joints: `config.eval.true_joints`.

  Returns:
    step(variables, view batch, geometry) -> Evaluation, to be mapped over `AXIS`. The
    camera and the query joints are the unchanged view's.
  """

  def step(
    variables: dict[str, Any], batch: ViewBatch, geometry: Geometry
  ) -> Evaluation:
    images = jnp.concatenate([batch.batch.image[:, None], batch.crops], axis=1)
    flat = images.reshape(-1, *images.shape[2:])
    predicted = predict(model, variables, flat, geometry)
    shape = images.shape[:2]
    predicted = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), predicted)
    vertices, joints = average(predicted.vertices, views, geometry)
    first = jax.tree.map(lambda x: x[:, 0], predicted)
    return eval_step.evaluation(
      first._replace(vertices=vertices, joints=joints),
      batch.batch,
      geometry,
      true_joints,
    )

  return step


def average(
  vertices_m: Float[Array, "b k v 3"], views: Views, geometry: Geometry
) -> tuple[Float[Array, "b v 3"], Float[Array, "b j 3"]]:
  """Meshes of views as one mesh, and its joints.

  Args:
    vertices_m: As predicted from each view.
    views: What the pictures went through.
    geometry: Regresses the joints.

  Returns:
    The means of the vertices and of the regressed joints, each after aligning every
    view's to the first's.
  """
  vertices_m = undone(vertices_m, views)
  flat = vertices_m.reshape(-1, *vertices_m.shape[2:])
  joints_m = body_model.regress_joints(geometry.body.mesh_regressor, flat)
  joints_m = joints_m.reshape(*vertices_m.shape[:2], *joints_m.shape[1:])
  weights = np.ones(len(views.augmentations), np.float32)
  weights[0] += views.first_twice
  weights /= weights.sum()

  def mean(points: Array) -> Array:
    flat = points.reshape(-1, *points.shape[2:])
    first = jnp.repeat(points[:, 0], points.shape[1], axis=0)
    moved = metrics.aligned(flat, first).reshape(points.shape)
    return (moved * weights[:, None, None]).sum(1)

  return mean(vertices_m), mean(joints_m)


def undone(vertices_m: Float[Array, "b k v 3"], views: Views) -> Array:
  """Meshes of views, turned and mirrored back: x = F R⁻¹ x', with x' = R F x."""
  angles = np.array([a.rotation_rad for a in views.augmentations])
  cosine, sine = np.cos(angles), np.sin(angles)
  inverse = np.zeros((len(angles), 3, 3))
  inverse[:, 0, 0], inverse[:, 0, 1] = cosine, sine
  inverse[:, 1, 0], inverse[:, 1, 1] = -sine, cosine
  inverse[:, 2, 2] = 1
  back = jnp.asarray(inverse, vertices_m.dtype)
  highest = jax.lax.Precision.HIGHEST
  vertices_m = jnp.einsum("kij,bkvj->bkvi", back, vertices_m, precision=highest)
  flipped = np.flatnonzero([a.flip for a in views.augmentations])
  if views.mirror is not None:
    across = mirror.unmirrored(views.mirror, vertices_m[:, flipped])
    vertices_m = vertices_m.at[:, flipped].set(across)
  return vertices_m
