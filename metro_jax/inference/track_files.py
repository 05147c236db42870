"""One person through a video: rows on disk while it is predicted, then the files.

A row goes to disk at once, so that memory does not grow with the video's length.
"""

import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Float

from metro_jax import files
from metro_jax.inference import body_files, parameters
from metro_jax.inference.batch import Fitter
from metro_jax.inference.body_files import Body, Fitted
from metro_jax.rendering import bvh, gltf, rig
from metro_jax.rendering.overlay import Box

AT_A_TIME = 64  # bodies that are fitted together
_CONSTANT = ("focal_px", "image_size_px")


class TrackRows:
  """What was seen of one person, a row a frame, in a file.

  Args:
    path: Of the file; it is made with the first row.

  Attributes:
    count: Rows so far.
    body: The last one, for what all rows share.
    constant: The camera's numbers that all rows share.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._type: np.dtype | None = None
    self.count = 0
    self.body: Body | None = None
    self.constant: dict[str, np.ndarray] = {}

  def add(
    self,
    number: int,
    time_s: float,
    body: Body,
    box: Box,
    image_size_px: tuple[int, int],
    focal_px: float,
  ) -> None:
    """Writes a frame's row.

    Args:
      number: Of the frame.
      time_s: Of the frame.
      body: The person, seen in the box.
      box: The square that the network saw.
      image_size_px: Width and height of the frame.
      focal_px: Of the pinhole camera.
    """
    cameras = body_files.in_picture(body, box, image_size_px, focal_px)
    self.constant = {name: cameras.pop(name) for name in _CONSTANT}
    row: dict[str, np.ndarray] = {
      "frames": np.array(number, np.int32),
      "times_s": np.array(time_s),
      "vertices_m": body.vertices_m.astype(np.float16),
      "joints_m": body.joints_m,
      "camera": body.camera,
      **cameras,
    }
    if self._type is None:
      self._type = np.dtype([(k, v.dtype, v.shape) for k, v in row.items()])
    packed = np.zeros((), self._type)
    for name, values in row.items():
      packed[name] = values
    with self._path.open("ab") as file:
      file.write(packed.tobytes())
    self.body, self.count = body, self.count + 1

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the columns, (t, ...), still on disk."""
    if self._type is None:
      return {}
    rows = np.memmap(self._path, self._type, "r")
    return {name: rows[name] for name in self._type.names or ()}

  def remove(self) -> None:
    """Deletes the file."""
    self._path.unlink(missing_ok=True)


def write_track(
  folder: pathlib.Path,
  name: str,
  rows: TrackRows,
  video: pathlib.Path,
  fit: Fitter | None = None,
) -> None:
  """Writes a person's npz and, where a body model is fitted, GLB and BVH.

  Args:
    folder: Where to; it must exist.
    name: Of the files, without endings.
    rows: At least one.
    video: Its path, for the npz.
    fit: Fits the body model; the mean shape is then held over the whole track.
  """
  arrays, body = rows.arrays(), rows.body
  if body is None:
    raise ValueError(f"track {name}: expected at least one frame, got none")
  found: Mapping[str, np.ndarray] = {}
  if fit is not None:
    fitted = _fit(arrays["vertices_m"], body, fit)
    found = {**fitted.stacked(), "betas": fitted.parameters.betas[0]}
    _write_motion(folder / name, fitted, arrays["times_s"])
  with (
    files.replacing(folder / f"{name}.npz") as partial,
    partial.open("wb") as file,
  ):
    np.savez_compressed(
      file,
      allow_pickle=False,
      **arrays,
      **rows.constant,
      **found,
      joint_names=np.array(list(body.joint_names)),
      faces=body.faces.astype(np.int32),
      video=np.array(str(video)),
    )


def _fit(vertices_m: np.ndarray, body: Body, fit: Fitter) -> Fitted:
  """Fits all frames, b = t: freely, and again with the mean of the shapes."""
  free: list[Fitted] = []
  for some in _blocks(vertices_m):
    free += fit([body._replace(vertices_m=one) for one in some])
  model = free[0].model
  betas = np.concatenate([one.parameters.betas for one in free]).mean(axis=0)
  fit_held = parameters.make_padded_fit(parameters.with_shape(model, betas))
  parts = [fit_held(some) for some in _blocks(vertices_m)]
  held = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
  held = held._replace(betas=np.broadcast_to(betas, held.betas.shape))
  return Fitted(model, held)


def _blocks(vertices_m: np.ndarray) -> Iterator[Float[np.ndarray, "b v 3"]]:
  for start in range(0, len(vertices_m), AT_A_TIME):
    yield vertices_m[start : start + AT_A_TIME].astype(np.float32)


def _write_motion(
  stem: pathlib.Path, fitted: Fitted, times_s: Float[np.ndarray, " t"]
) -> None:
  found = fitted.parameters
  resting = rig.make_rig(fitted.model, found.betas[0], fitted.pose[0])
  motion = rig.make_motion(fitted.model, resting, fitted.pose, found.transl)
  since_s = np.asarray(times_s) - times_s[0]
  gltf.write_rigged(f"{stem}.glb", resting, motion, times_s=since_s)
  rows, fps = _evenly(since_s)
  even = rig.Motion(motion.turns[rows], motion.root_m[rows])
  bvh.write_bvh(f"{stem}.bvh", resting, even, fps)


def _evenly(times_s: Float[np.ndarray, " t"]) -> tuple[np.ndarray, float]:
  """Picks rows at equal steps, as BVH wants them, each the nearest in time."""
  if len(times_s) < 2:
    return np.arange(len(times_s)), 30.0
  step_s = float(np.median(np.diff(times_s)))
  wanted = np.arange(round(times_s[-1] / step_s) + 1) * step_s
  after = np.searchsorted(times_s, wanted).clip(1, len(times_s) - 1)
  nearer = wanted - times_s[after - 1] < times_s[after] - wanted
  return after - nearer, 1 / step_s
