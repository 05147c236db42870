"""A run's network as a function of a photograph and a square in it."""

import jax
import numpy as np
from jaxtyping import Float

from metro_jax.body import camera
from metro_jax.checkpoints import runs
from metro_jax.data import framing
from metro_jax.data.framing import Frame
from metro_jax.inference import body_files, forward_pass, photographs
from metro_jax.inference.batch import Predictor
from metro_jax.inference.body_files import Body
from metro_jax.rendering.overlay import Box

Seen = tuple[np.ndarray, np.ndarray, np.ndarray]  # vertices, joints, camera


def make_predictor(
  run: runs.Run, mirrored: bool = False, passes: int | None = None
) -> Predictor:
  """Makes the network a function of a picture and a square in it.

  With two passes the network first looks at the square as it is, then at the person
  upright and large, in the square that `framing.upright` makes of the joints it saw.
  The second look's mesh and camera are turned back: the numbers mean what one pass's
  do. Vertices and joints are in the picture's own camera frame, and the camera
  projects them into the given square.

  Args:
    run: The network and its parameters.
    mirrored: Whether the picture goes in, and the mesh comes out, mirrored left to
      right: left hands with a network of right ones.
    passes: 1 or 2; None takes what the network was trained for, `data.passes`.
  """
  body, crop_px = run.network.body, run.config.data.image_px
  passes = passes or run.config.data.passes
  forward = jax.jit(forward_pass.make_forward(run.network))
  variables = jax.device_put(run.variables)

  def look(image: np.ndarray, frame: Frame) -> Seen:
    crop = photographs.crop(image, frame, crop_px)
    crop = np.ascontiguousarray(crop[:, ::-1]) if mirrored else crop
    made = jax.device_get(forward(variables, crop[None]))
    return tuple(made[name][0] for name in ("vertices", "joints", "camera"))

  def predict(image: np.ndarray, box: Box) -> Body:
    given = Frame(np.array([box.center_x, box.center_y]), box.side, 0.0)
    seen = look(image, given)
    for _ in range(passes - 1):
      frame = framing.upright(_to_pixels(seen, given))
      seen = _turned_back(look(image, frame), frame, given)
    found = Body(*seen, np.asarray(body.faces), body.joint_names)
    return body_files.mirror(found) if mirrored else found

  return predict


def _to_pixels(seen: Seen, frame: Frame) -> Float[np.ndarray, "j 2"]:
  """Where an upright square's joints are in the picture."""
  crop = camera.weak_perspective(seen[1], seen[2]).astype(np.float64)
  return camera.crop_to_pixels(crop, frame.center_px, np.array(frame.side_px))


def _turned_back(seen: Seen, frame: Frame, box: Frame) -> Seen:
  vertices, joints_m, weak = seen
  vertices, _ = framing.turn_back(vertices, weak, frame, box)
  joints_m, weak = framing.turn_back(joints_m, weak, frame, box)
  return vertices, joints_m, weak
