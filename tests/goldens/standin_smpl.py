"""The deterministic stand-in for SMPL's licensed file behind the goldens, in NumPy.

Every number is a float32 held in float64; skin weights and regressor rows are
multiples of 1/1024, so that they sum to 1 exactly.
"""

import zlib

import numpy as np

VERTICES = 6890
PARENTS = (
  *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8),
  *(9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
)
# Rough joint centres of a T-pose in metres.
JOINTS = np.array([
  *([0, -0.24, 0.03], [0.06, -0.33, 0.01], [-0.06, -0.34, 0.02], [0, -0.11, 0]),
  *([0.11, -0.71, 0.01], [-0.11, -0.72, 0.01], [0, 0.02, 0.03]),
  *([0.09, -1.12, -0.03], [-0.09, -1.13, -0.03], [0, 0.07, 0.03]),
  *([0.11, -1.17, 0.09], [-0.11, -1.17, 0.09], [0, 0.28, -0.01]),
  *([0.08, 0.19, 0], [-0.08, 0.19, -0.01], [0.01, 0.35, 0.03]),
  *([0.17, 0.22, -0.02], [-0.17, 0.22, -0.02], [0.43, 0.21, -0.04]),
  *([-0.43, 0.21, -0.04], [0.68, 0.22, -0.05], [-0.68, 0.22, -0.05]),
  *([0.76, 0.21, -0.06], [-0.76, 0.21, -0.06]),
])  # fmt: skip


def rng(name: str) -> np.random.Generator:
  return np.random.default_rng(zlib.crc32(f"smpl.{name}".encode()))


def normal(name: str, *shape: int) -> np.ndarray:
  return rng(name).standard_normal(shape)


def rounded(values: np.ndarray) -> np.ndarray:
  return values.astype(np.float32).astype(np.float64)


def arrays() -> dict[str, np.ndarray]:
  """The file's arrays under the names of `BodyModel`."""
  part = rng("part").integers(0, 24, VERTICES)  # the joint that a vertex belongs to
  part[: 16 * 24] = np.repeat(np.arange(24), 16)
  template = JOINTS[part] + 0.05 * normal("v_template", VERTICES, 3)
  return {
    "template": rounded(template),
    "shape_directions": rounded(0.01 * normal("shapedirs", VERTICES, 3, 10)),
    "pose_directions": rounded(0.002 * normal("posedirs", VERTICES, 3, 207)),
    "joint_regressor": joint_regressor(part),
    "skin_weights": skin_weights(part),
  }


def skin_weights(part: np.ndarray) -> np.ndarray:
  """Of the own joint and three before it; the root repeats."""
  minor = rng("weights").integers(0, 200, (VERTICES, 3))
  weights = np.zeros((VERTICES, 24))
  joint, rows = part, np.arange(VERTICES)
  weights[rows, joint] += 1024 - minor.sum(1)
  for column in minor.T:
    joint = np.maximum(PARENTS, 0)[joint]
    weights[rows, joint] += column
  return weights / 1024


def joint_regressor(part: np.ndarray) -> np.ndarray:
  """Every joint from the first 16 vertices of its part."""
  draws, regressor = rng("J_regressor"), np.zeros((24, VERTICES))
  for joint in range(24):
    first = np.flatnonzero(part == joint)[:16]
    regressor[joint, first] = draws.multinomial(1024, np.full(16, 1 / 16)) / 1024
  return regressor
