"""Errors of a network over a split, exactly, and of the baseline beside it."""

import hashlib
import json
import math
import pathlib
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float, Int

from metro_jax import files
from metro_jax.body import body_model, joints
from metro_jax.body.body_model import BodyModel
from metro_jax.data.pipeline import Source
from metro_jax.data.schema import Batch
from metro_jax.evaluation import metrics, protocols
from metro_jax.evaluation.eval_step import Evaluation, make_eval_step
from metro_jax.evaluation.protocols import Protocol
from metro_jax.models.metro import Prediction
from metro_jax.training import parallel
from metro_jax.training.step import Geometry

MappedEvalStep = Callable[[Any, Batch], Evaluation]
POSES_AT_ONCE = 32
TERMINAL_COLUMNS = 88


class Results(NamedTuple):
  """Errors over a split.

  Attributes:
    means_mm: Per metric, the mean over all processes' labelled examples.
    examples: How many examples those are; the most of any metric.
    index: (n,) rows of this process's valid examples, in order.
    errors_mm: Per metric, (n,) errors of those; NaN without the label.
  """

  means_mm: dict[str, float]
  examples: int
  index: Int[np.ndarray, " n"]
  errors_mm: dict[str, Float[np.ndarray, " n"]]


def map_eval_step(model: nn.Module, geometry: Geometry) -> MappedEvalStep:
  """The network's eval step over all devices, for `evaluate`."""
  return parallel.map_step(make_eval_step(model), geometry, donate=False)


def evaluate(
  eval_step: MappedEvalStep,
  state: Any,
  batches: Iterable[Batch],
  total_batches: int | None = None,
  label: str = "evaluating",
) -> Results:
  """Runs the network over a split, counting every example exactly once.

  The mean is the sum of the errors of valid, labelled examples over all devices and
  processes by their number, so padding and the sizes of batches leave no trace.

  Args:
    eval_step: Made by `map_eval_step`.
    state: What the step takes first, replicated: the network's variables.
    batches: This process's share of the split, on the host; see
      `pipeline.eval_batches`.
    total_batches: For the progress bar.
    label: For the progress bar.

  Returns:
    Means over everything, errors of this process's examples.
  """
  parts, rows, errors = [], [], []
  bar = tqdm.tqdm(
    batches,
    total=total_batches,
    desc=label,
    unit="batch",
    leave=False,
    disable=not sys.stderr.isatty(),
  )
  for batch in bar:
    done = eval_step(state, parallel.shard(batch))
    valid = np.asarray(batch.valid)
    parts.append(parallel.unreplicate(done.totals))
    rows.append(np.asarray(batch.index)[valid])
    errors.append({k: v[valid] for k, v in parallel.gather(done.errors).items()})
  return Results(
    means_mm=metrics.means(parts),
    examples=_most_examples(parts),
    index=np.concatenate([np.zeros(0, np.int64), *rows]),
    errors_mm={
      name: np.concatenate([np.zeros(0, np.float32), *(e[name] for e in errors)])
      for name in metrics.NAMES
    },
  )


def _most_examples(parts: list[dict[str, dict[str, Any]]]) -> int:
  sums = [sum(int(part["count"][name]) for part in parts) for name in metrics.NAMES]
  return max(sums)


class MeanMesh(nn.Module):
  """The baseline as a network: whatever the picture, it says the same mesh."""

  num_vertices: int

  @nn.compact
  def __call__(self, images: Any, template: Any, mask: Any, train: bool) -> Prediction:
    """Returns the parameter `vertices`, metres, for every picture."""
    del template, mask, train
    shape = (self.num_vertices, 3)
    vertices = self.param("vertices", nn.initializers.zeros, shape)
    count = len(images)
    return Prediction(
      camera=jnp.zeros((count, 3)),
      joints=jnp.zeros((count, len(joints.J14), 3)),
      vertices=(jnp.broadcast_to(vertices, (count, *shape)),),
    )


def mean_mesh_baseline(
  mean_mesh_m: Float[np.ndarray, "v 3"],
  geometry: Geometry,
  batches: Iterable[Batch],
  total_batches: int | None = None,
) -> Results:
  """Errors of predicting the mean mesh for every example.

  Args:
    mean_mesh_m: See `mean_mesh`.
    geometry: The body's arrays.
    batches: The same examples that the network was evaluated on.
    total_batches: For the progress bar.

  Returns:
    As `evaluate`, by the same code.
  """
  eval_step = map_eval_step(MeanMesh(len(mean_mesh_m)), geometry)
  variables = {"params": {"vertices": mean_mesh_m}}
  state = parallel.replicate(variables)
  return evaluate(eval_step, state, batches, total_batches, "baseline")


def mean_mesh(
  source: Source, body: BodyModel, cache: pathlib.Path | None = None
) -> Float[np.ndarray, "v 3"]:
  """The mean of the posed meshes of a split's labelled examples.

  m = 1/N Σ_i (V(pose_i, shape_i) - pelvis_i), pelvis of the H36M regressor

  Args:
    source: The training split.
    body: With NumPy arrays.
    cache: A file that keeps the mean of this very split; it is read if it fits and
      written if not.

  Returns:
    Camera frame, metres, the pelvis at the origin, float32.

  Raises:
    ValueError: If no example of the split has a mesh.
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


def _fingerprint(source: Source, body: BodyModel) -> str:
  """Tells splits apart by their name, size and two of their examples."""
  digest = hashlib.sha256(f"{source.name} {len(source)} {body.name}".encode())
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
  if count == 0:
    raise ValueError(f"{source.name}: expected examples with a mesh, got none")
  mean = total / count
  pelvis = body.regressors["h36m"][joints.PELVIS].astype(np.float64) @ mean
  return (mean - pelvis).astype(np.float32)


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
  bar = tqdm.tqdm(
    range(len(source)),
    desc="mean mesh of the training split",
    unit="example",
    leave=False,
    disable=not sys.stderr.isatty(),
  )
  for row in bar:
    example = source[row]
    if example["has_mesh"]:
      poses.append(example["pose"])
      shapes.append(example["shape"])
    if len(poses) == POSES_AT_ONCE or (poses and row == len(source) - 1):
      missing = POSES_AT_ONCE - len(poses)
      weight = np.array([1.0] * len(poses) + [0.0] * missing, np.float32)
      rows = ((0, missing), (0, 0))
      yield np.pad(np.stack(poses), rows), np.pad(np.stack(shapes), rows), weight
      poses, shapes = [], []


def as_json(
  results: Results, baseline: Results, protocol: Protocol, **more: Any
) -> dict[str, Any]:
  """What `<workdir>/eval/<split>.json` holds; a mean of nothing is null."""
  return {
    **_numbers(results),
    "baseline": {**_numbers(baseline), "what": protocols.BASELINE},
    "protocol": protocols.describe(protocol),
    **more,
  }


def _numbers(results: Results) -> dict[str, Any]:
  means = {
    name: value if math.isfinite(value) else None
    for name, value in results.means_mm.items()
  }
  return {**means, "examples": results.examples}


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a file as a whole; its folder is made."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path) as partial:
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def format_table(results: Results, baseline: Results, protocol: Protocol) -> str:
  """The errors beside the baseline's, with what they mean, for a terminal."""
  lines = [f"{'':10} {'network':>12} {'mean mesh':>12} {'change':>8}"]
  for name, (title, meaning) in protocols.METRICS.items():
    ours, theirs = results.means_mm[name], baseline.means_mm[name]
    change = 100 * (ours / theirs - 1) if theirs else math.nan
    lines.append(
      f"{title:10} {ours:9.1f} mm {theirs:9.1f} mm {change:+6.1f} %   {meaning}"
    )
  lines += [
    f"{results.examples:,} examples",
    "",
    *textwrap.wrap(f"Protocol: {protocols.describe(protocol)}", TERMINAL_COLUMNS),
    *textwrap.wrap(f"Baseline: {protocols.BASELINE}", TERMINAL_COLUMNS),
  ]
  return "\n".join(lines)
