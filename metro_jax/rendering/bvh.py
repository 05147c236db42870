"""BVH: a skeleton and its motion as text, for Blender, MotionBuilder and engines.

Metres, y up. The root's three position channels say where the root joint is, as its
OFFSET is zero; each joint has R = Rz Ry Rx in degrees.

Source: Meredith and Maddock, "Motion Capture File Formats Explained", 2001.
"""

import os

import numpy as np
from jaxtyping import Float

from metro_jax import files
from metro_jax.rendering.rig import Motion, Rig

_TURN = "Zrotation Yrotation Xrotation"
_PLACE = "Xposition Yposition Zposition"
_END = 0.5  # length of a last bone, over that of the bone before


def write_bvh(
  path: str | os.PathLike[str], rig: Rig, motion: Motion, fps: float = 30.0
) -> None:
  """Writes a skeleton and what it does.

  Args:
    path: Ends in .bvh; its folder must exist.
    rig: The body at rest.
    motion: One or more frames.
    fps: Frames a second.
  """
  angles = to_euler_zyx_degrees(motion.turns)[:, _depth_first(rig)]
  rows = np.concatenate([motion.root_m, angles.reshape(len(angles), -1)], axis=1)
  lines = ["HIERARCHY", *_joint_lines(rig, 0, 0), "MOTION", f"Frames: {len(rows)}"]
  lines.append(f"Frame Time: {1 / fps:.9f}")
  lines += [" ".join(f"{value:.6f}" for value in row) for row in rows]
  with files.replacing(path) as partial:
    partial.write_text("\n".join(lines) + "\n", encoding="ascii")


def to_euler_zyx_degrees(
  turns: Float[np.ndarray, "t k 3 3"],
) -> Float[np.ndarray, "t k 3"]:
  """Returns angles z, y, x with R = Rz Ry Rx, without jumps of a turn over time.

  Where y is a right angle only z - x or z + x is known, and x is 0.
  """
  m = turns.astype(np.float64)
  level = np.hypot(m[..., 0, 0], m[..., 1, 0])
  upright = level < 1e-6
  y = np.arctan2(-m[..., 2, 0], level)
  z = np.where(
    upright,
    np.arctan2(-m[..., 0, 1], m[..., 1, 1]),
    np.arctan2(m[..., 1, 0], m[..., 0, 0]),
  )
  x = np.where(upright, 0.0, np.arctan2(m[..., 2, 1], m[..., 2, 2]))
  return np.degrees(np.unwrap(np.stack([z, y, x], axis=-1), axis=0))


def _children(rig: Rig, joint: int) -> list[int]:
  return [n for n, parent in enumerate(rig.parents) if parent == joint]


def _depth_first(rig: Rig, joint: int = 0) -> list[int]:
  """The joints in the order in which a file names them."""
  found = [joint]
  for child in _children(rig, joint):
    found += _depth_first(rig, child)
  return found


def _joint_lines(rig: Rig, joint: int, depth: int) -> list[str]:
  indent, parent = "  " * depth, rig.parents[joint]
  bone = rig.joints_m[joint] - rig.joints_m[parent] if depth else np.zeros(3)
  kind, channels = ("JOINT", f"3 {_TURN}") if depth else ("ROOT", f"6 {_PLACE} {_TURN}")
  lines = [f"{indent}{kind} {rig.names[joint]}", f"{indent}{{"]
  lines += [f"{indent}  {_offset(bone)}", f"{indent}  CHANNELS {channels}"]
  children = _children(rig, joint)
  for child in children:
    lines += _joint_lines(rig, child, depth + 1)
  if not children:
    end = [
      f"{indent}  {line}" for line in ("End Site", "{", f"  {_offset(_END * bone)}")
    ]
    lines += [*end, f"{indent}  }}"]
  return [*lines, f"{indent}}}"]


def _offset(bone_m: np.ndarray) -> str:
  return "OFFSET " + " ".join(f"{value:.6f}" for value in bone_m)
