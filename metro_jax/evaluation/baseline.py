"""The baseline beside the network: one mean mesh, whatever the picture."""

import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float

from metro_jax import files
from metro_jax.body import body_model, joints
from metro_jax.body.body_model import BodyModel
from metro_jax.body.template import ROOT_ROTATION_RAD
from metro_jax.cluster import parallel
from metro_jax.data.batch import Batch
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import evaluator
from metro_jax.models.metro import Prediction
from metro_jax.models.setup import Geometry

POSES_AT_ONCE = 32
MOST_EXAMPLES = 50_000


class MeanMesh(nn.Module):
  """The baseline as a network: whatever the picture, it says the same mesh."""

  num_vertices: int
  num_joints: int = len(joints.J14)

  @nn.compact
  def __call__(self, images: Any, template: Any, mask: Any, train: bool) -> Prediction:
    """Returns the parameter `vertices`, metres, for every picture."""
    del template, mask, train
    shape = (self.num_vertices, 3)
    vertices = self.param("vertices", nn.initializers.zeros, shape)
    count = len(images)
    return Prediction(
      camera=jnp.zeros((count, 3)),
      query_joints=jnp.zeros((count, self.num_joints, 3)),
      vertices=(jnp.broadcast_to(vertices, (count, *shape)),),
    )


def mean_mesh_baseline(
  mean_mesh_m: Float[np.ndarray, "v 3"],
  geometry: Geometry,
  batches: Iterable[Batch],
  total_batches: int | None = None,
  true_joints: str = "labels",
) -> evaluator.Results:
  """Errors of predicting the mean mesh for every example.

  Args:
    mean_mesh_m: See `mean_mesh`.
    geometry: The body's arrays.
    batches: The same examples that the network was evaluated on.
    total_batches: For the progress bar.
    true_joints: `config.eval.true_joints`.

  Returns:
    As `evaluator.evaluate`, by the same code.
  """
  model = MeanMesh(len(mean_mesh_m), len(geometry.body.joint_names))
  eval_step = evaluator.map_eval_step(model, geometry, true_joints)
  variables = parallel.replicate({"params": {"vertices": mean_mesh_m}})
  return evaluator.evaluate(eval_step, variables, batches, total_batches, "baseline")


def mean_mesh(
  source: Source, body: BodyModel, cache: pathlib.Path | None = None
) -> Float[np.ndarray, "v 3"]:
  """Averages the posed meshes of a split's labelled examples.

  m = 1/N Σ_i (V(pose_i, shape_i) - root_i), the regressed H36M pelvis or wrist

  Args:
    source: The training split. Of one with more than `MOST_EXAMPLES`, so many are
      read, spread evenly.
    body: With NumPy arrays.
    cache: A file that keeps the mean of this very split; it is read if it fits and
      written if not.

  Returns:
    Camera frame, metres, the root at the origin, float32. The upright mean body if no
    example has a mesh.
  """
  fingerprint = _fingerprint(source, body)
  if cache is not None and cache.exists():
    with np.load(cache) as stored:
      if str(stored["fingerprint"]) == fingerprint:
        return stored["vertices_m"]
  vertices_m = _compute_mean_mesh(source, body)
  if cache is not None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(cache) as partial, partial.open("wb") as file:
      np.savez(file, vertices_m=vertices_m, fingerprint=fingerprint)
  return vertices_m


def _rows(source: Source) -> range | list[int]:
  count = min(len(source), MOST_EXAMPLES)
  return [i * len(source) // count for i in range(count)]


def _fingerprint(source: Source, body: BodyModel) -> str:
  """Tells splits apart by name, size, when they were built, and two examples."""
  built = getattr(source, "built", "")
  name = f"{source.name} {len(source)} {len(_rows(source))} {body.name} {built}"
  digest = hashlib.sha256(name.encode())
  for row in (0, len(source) - 1):
    example = source[row]
    digest.update(np.ascontiguousarray(example["pose"]).tobytes())
    digest.update(np.ascontiguousarray(example["shape"]).tobytes())
  return digest.hexdigest()


def _compute_mean_mesh(source: Source, body: BodyModel) -> np.ndarray:
  total, count = np.zeros(body.template.shape, np.float64), 0
  for pose, shape, weight in _labelled_poses(source):
    total += np.asarray(_add_up(body, pose, shape, weight), np.float64)
    count += int(weight.sum())
  mean = total / count if count else _upright(body)
  return (mean - body.root_regressor.astype(np.float64) @ mean).astype(np.float32)


def _upright(body: BodyModel) -> np.ndarray:
  """The mean shape at rest, turned into the camera frame as the network's queries."""
  pose = np.zeros((1, 3 * body.num_joints), np.float32)
  pose[0, 0] = 0 if body.is_hand else ROOT_ROTATION_RAD
  shape = np.zeros((1, body.shape_directions.shape[-1]), np.float32)
  return body_model.pose_body(body, pose, shape).vertices[0].astype(np.float64)


@jax.jit
def _add_up(body, pose, shape, weight):
  """Returns the weighted sum of posed meshes."""
  with jax.default_matmul_precision("highest"):
    vertices = body_model.pose_body(body, pose, shape).vertices
    return jnp.einsum("b,bvc->vc", weight, vertices)


def _labelled_poses(source: Source):
  """Yields (pose, shape, weight) of examples with a mesh, always equally many.

  The last ones are filled up with weight 0.
  """
  poses, shapes = [], []
  rows = _rows(source)
  bar = tqdm.tqdm(
    rows,
    desc="mean mesh of the training split",
    unit="example",
    leave=False,
    disable=None,
  )
  for row in bar:
    example = source[row]
    if example["has_mesh"]:
      poses.append(example["pose"])
      shapes.append(example["shape"])
    if len(poses) == POSES_AT_ONCE or (poses and row == rows[-1]):
      missing = POSES_AT_ONCE - len(poses)
      weight = np.array([1.0] * len(poses) + [0.0] * missing, np.float32)
      padding = ((0, missing), (0, 0))
      yield np.pad(np.stack(poses), padding), np.pad(np.stack(shapes), padding), weight
      poses, shapes = [], []
