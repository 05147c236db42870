"""A run's network as a function of photographs and squares in them."""

import operator
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from metro_jax.body import camera, hand
from metro_jax.checkpoints import runs
from metro_jax.data import framing
from metro_jax.data.framing import Frame
from metro_jax.inference import body_files, forward_pass, parameters, photographs
from metro_jax.inference.batch import Fitter, Predictor
from metro_jax.inference.body_files import Body, Fitted
from metro_jax.rendering.overlay import Box

SIZES = (1, 2, 4, 8, 16)  # crops at a time; each is compiled once
Image = UInt8[np.ndarray, "_ _ 3"]
Seen = tuple[np.ndarray, np.ndarray, np.ndarray]  # vertices, joints, camera
BatchPredictor = Callable[[Sequence[Image], Sequence[Box]], list[Body]]


def make_predictor(
  run: runs.Run, mirrored: bool = False, passes: int | None = None
) -> Predictor:
  """Makes the network a function of a picture and a square in it.

  Args:
    run: As for `make_batch_predictor`, as the others.
    mirrored: The same.
    passes: The same.
  """
  predict_all = make_batch_predictor(run, mirrored, passes)

  def predict(image: np.ndarray, box: Box) -> Body:
    return predict_all([image], [box])[0]

  return predict


def make_batch_predictor(
  run: runs.Run, mirrored: bool = False, passes: int | None = None
) -> BatchPredictor:
  """Makes the network a function of pictures and a square in each.

  With two passes the network first looks at the squares as they are, then at each
  person upright and large, in the square that `framing.upright` makes of the joints it
  saw. The second look's mesh and camera are turned back: the numbers mean what one
  pass's do. Vertices and joints are in the picture's own camera frame, and the camera
  projects them into the given square.

  Args:
    run: The network and its parameters.
    mirrored: Whether pictures go in, and meshes come out, mirrored left to right: left
      hands with a network of right ones.
    passes: 1 or 2; None takes what the network was trained for, `data.passes`.

  Returns:
    predict(images, boxes) -> bodies. A picture may come several times, once a person.
    Crops are seen `SIZES` at a time; more are as fast as the largest size.
  """
  body, crop_px = run.network.body, run.config.data.image_px
  passes = passes or run.config.data.passes
  forward = jax.jit(forward_pass.make_forward(run.network))
  variables = jax.device_put(run.variables)

  def look(images: Sequence[Image], frames: Sequence[Frame]) -> list[Seen]:
    crops = [
      photographs.crop(image, frame, crop_px)
      for image, frame in zip(images, frames, strict=True)
    ]
    batch = np.stack(crops)
    batch = np.ascontiguousarray(batch[:, :, ::-1]) if mirrored else batch
    padded = np.pad(batch, [(0, _size(len(batch)) - len(batch)), *[(0, 0)] * 3])
    made = jax.device_get(forward(variables, padded))
    names = ("vertices", "joints", "camera")
    return list(zip(*(made[name][: len(batch)] for name in names), strict=True))

  def predict(images: Sequence[Image], boxes: Sequence[Box]) -> list[Body]:
    found: list[Body] = []
    for start in range(0, len(boxes), SIZES[-1]):
      some = slice(start, start + SIZES[-1])
      found += _predict_some(images[some], boxes[some])
    return found

  def _predict_some(images: Sequence[Image], boxes: Sequence[Box]) -> list[Body]:
    given = [Frame(np.array([b.center_x, b.center_y]), b.side, 0.0) for b in boxes]
    seen = look(images, given)
    for _ in range(passes - 1):
      frames = [
        framing.upright(_to_pixels(*pair)) for pair in zip(seen, given, strict=True)
      ]
      again = zip(look(images, frames), frames, given, strict=True)
      seen = [_turned_back(*one) for one in again]
    faces = np.asarray(body.faces)
    bodies = [Body(*one, faces, body.joint_names) for one in seen]
    return [body_files.mirror(one) for one in bodies] if mirrored else bodies

  return predict


def make_fitter(run: runs.Run, mirrored: bool = False) -> Fitter:
  """Makes a function that fits the network's body model to what it predicted.

  Args:
    run: The network.
    mirrored: As for `make_batch_predictor`; the model is then of the other hand.
  """
  model = run.network.body
  model = hand.mirrored(model) if mirrored else model
  fit = parameters.make_padded_fit(model)

  def fit_all(bodies: Sequence[Body]) -> list[Fitted]:
    found = fit(np.stack([body.vertices_m for body in bodies]))
    rows = (slice(n, n + 1) for n in range(len(bodies)))
    return [
      Fitted(model, jax.tree.map(operator.itemgetter(row), found)) for row in rows
    ]

  return fit_all


def _size(count: int) -> int:
  """Returns the smallest of `SIZES` that holds so many."""
  return next(size for size in SIZES if size >= count)


def _to_pixels(seen: Seen, frame: Frame) -> Float[np.ndarray, "j 2"]:
  """Returns where an upright square's joints are in the picture."""
  crop = camera.weak_perspective(seen[1], seen[2]).astype(np.float64)
  return camera.crop_to_pixels(crop, frame.center_px, np.array(frame.side_px))


def _turned_back(seen: Seen, frame: Frame, box: Frame) -> Seen:
  vertices, joints_m, weak = seen
  vertices, _ = framing.turn_back(vertices, weak, frame, box)
  joints_m, weak = framing.turn_back(joints_m, weak, frame, box)
  return vertices, joints_m, weak
