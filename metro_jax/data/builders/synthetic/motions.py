"""Poses people take: real motion, stances and exercises, whole, blended or recombined.

What is drawn is a whole pose of one source, a blend of two, or the legs of one under
the arms of another; then it is scattered, mirrored and kept to the limits of joints.
"""

import functools
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import rotations
from metro_jax.data.builders.synthetic import anatomy, stances
from metro_jax.data.builders.synthetic.anatomy import ANGLES
from metro_jax.data.builders.synthetic.exercises import EXERCISES

ASSET = pathlib.Path(__file__).parent / "assets" / "motions.npz"
ANGLE_STEP_DEG, ROOT_STEP_RAD = 0.1, 1e-3  # of the whole numbers that the file holds

SOURCES = {"stance": 0.3, "exercise": 0.32, "motion": 0.38}
MIXES = {"whole": 0.4, "blend": 0.2, "arms": 0.2, "arm": 0.1, "upper": 0.1}
LYING = 0.05  # share of the stances and exercises that lie down as they are
JITTER = 0.5  # of the spread of standing at ease
TILT_DEG = 5.0  # spread of the root's turn
TOUCH_M = -0.03  # clothes and flesh give way that far
_ROUNDS, _TRIES = 4, 4

_ARM = ("collar", "shoulder", "elbow", "forearm", "wrist", "finger")
_ARM_ROWS = [i for i, n in enumerate(ANGLES) if n.startswith(_ARM)]
_UPPER_ROWS = [
  i for i, n in enumerate(ANGLES) if n.startswith((*_ARM, "neck", "spine"))
]
# What the clips do not know; it comes from standing at ease.
_UNKNOWN = ("forearm", "wrist", "finger", "toe")
_UNKNOWN_ROWS = [i for i, n in enumerate(ANGLES) if n.startswith(_UNKNOWN)]


class Library(NamedTuple):
  """Frames of real motion.

  Attributes:
    angles_deg: In the order of `anatomy.ANGLES`, left and right.
    roots: Axis-angle of the root where y points up, radians.
    weights: How often to draw each frame; they sum to one.
    clips: The clip that each is from, an index into `names`.
    names: Of the clips.
  """

  angles_deg: Float[np.ndarray, "n a 2"]
  roots: Float[np.ndarray, "n 3"]
  weights: Float[np.ndarray, " n"]
  clips: Int[np.ndarray, " n"]
  names: tuple[str, ...]

  def without(self, clip: str) -> "Library":
    """The library less the frames of one clip."""
    kept = self.clips != self.names.index(clip)
    weights = self.weights[kept] / self.weights[kept].sum()
    return Library(
      self.angles_deg[kept], self.roots[kept], weights, self.clips[kept], self.names
    )


@functools.cache
def load() -> Library:
  """The embedded library.

  Raises:
    FileNotFoundError, ValueError: If the asset is missing or damaged.
  """
  return read(ASSET)


def read(path: pathlib.Path) -> Library:
  """Reads what `save` wrote; raises as `load` does."""
  if not path.exists():
    raise FileNotFoundError(f"motions: expected the asset {path}, got none")
  try:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as stored:
      weights = stored["weights"].astype(np.float64)
      return Library(
        angles_deg=stored["angles"] * ANGLE_STEP_DEG,
        roots=stored["roots"] * ROOT_STEP_RAD,
        weights=weights / weights.sum(),
        clips=stored["clips"].astype(np.int64),
        names=tuple(stored["names"].tolist()),
      )
  except Exception as error:  # zip, zlib and header errors have no common base
    raise ValueError(f"motions: cannot read {path}: {error}") from error


def save(library: Library, path: pathlib.Path) -> None:
  """Writes the library in whole steps."""
  np.savez_compressed(
    path,
    angles=np.round(library.angles_deg / ANGLE_STEP_DEG).astype(np.int16),
    roots=np.round(library.roots / ROOT_STEP_RAD).astype(np.int16),
    weights=library.weights.astype(np.float32),
    clips=library.clips.astype(np.uint8),
    names=np.array(library.names),
  )


def sample_pose(
  rng: np.random.Generator,
  rest_joints_m: Float[np.ndarray, "24 3"],
  library: Library | None = None,
) -> Float[np.ndarray, " 72"]:
  """Draws a pose inside the limits and without crossed limbs.

  Args:
    rng: Where the randomness comes from; the result depends on nothing else.
    rest_joints_m: Joints of a typical body's rest pose, to see which limbs cross.
    library: Real motion; the embedded one if None.

  Returns:
    SMPL's axis-angle of 24 joints, radians; the root's in a frame with y up.
  """
  library = library or load()
  best, best_m = np.zeros((1, 24, 3)), -np.inf
  for _ in range(_ROUNDS):
    kind = _choose(rng, MIXES)
    first, second = _choose_source(rng, library), _choose_source(rng, library)
    for _ in range(_TRIES):
      angles, root = _sample_source(rng, first)
      if kind != "whole":
        angles = _mixed(rng, kind, angles, _sample_source(rng, second)[0])
      pose = _scattered(rng, angles, root)
      free_m = anatomy.clearance_m(pose, rest_joints_m)[0]
      if free_m > best_m:
        best, best_m = pose, free_m
      if free_m >= TOUCH_M:
        return pose.reshape(72).astype(np.float32)
  return best.reshape(72).astype(np.float32)


def _scattered(
  rng: np.random.Generator, angles: np.ndarray, root: np.ndarray
) -> Float[np.ndarray, "1 24 3"]:
  """A pose near the given one, left as it is or mirrored."""
  noise = rng.standard_normal(angles.shape).clip(-2.5, 2.5)
  angles = anatomy.inside_limits((angles + JITTER * _ease()[1] * noise)[None])
  tilt = np.radians(TILT_DEG) * rng.standard_normal(3).clip(-2.5, 2.5)
  root = _turn_after(tilt, root)
  if rng.random() < 0.5:
    angles, root = anatomy.mirror(angles), root * [1.0, -1.0, -1.0]
  pose = anatomy.angles_to_pose(angles)
  pose[:, 0] = root
  return pose


@functools.cache
def _ease() -> tuple[Float[np.ndarray, "a 2"], Float[np.ndarray, "a 2"]]:
  return stances.mean_and_spread(stances.Stance(1.0, {}))


def _mixed(
  rng: np.random.Generator, kind: str, angles: np.ndarray, other: np.ndarray
) -> np.ndarray:
  if kind == "blend":
    share = rng.uniform(0.0, 0.5)
    return (1 - share) * angles + share * other
  rows = _UPPER_ROWS if kind == "upper" else _ARM_ROWS
  sides = [int(rng.integers(2))] if kind == "arm" else [0, 1]
  mixed = angles.copy()
  mixed[np.ix_(rows, sides)] = other[np.ix_(rows, sides)]
  return mixed


class _Frame(NamedTuple):
  """One frame of real motion."""

  angles_deg: Float[np.ndarray, "a 2"]
  root: Float[np.ndarray, "3"]


def _choose_source(
  rng: np.random.Generator, library: Library
) -> _Frame | stances.Stance:
  kind = _choose(rng, SOURCES)
  if kind == "motion":
    row = rng.choice(len(library.weights), p=library.weights)
    return _Frame(library.angles_deg[row], library.roots[row])
  table = stances.STANCES if kind == "stance" else EXERCISES
  return table[_choose(rng, {name: s.weight for name, s in table.items()})]


def _sample_source(
  rng: np.random.Generator, source: _Frame | stances.Stance
) -> tuple[Float[np.ndarray, "a 2"], Float[np.ndarray, "3"]]:
  """Angles in degrees and the root's turn; left and right of stances vary."""
  if isinstance(source, _Frame):
    angles = source.angles_deg.copy()
    ease = stances.scatter(rng, *_ease(), 1)[0]
    angles[_UNKNOWN_ROWS] = ease[_UNKNOWN_ROWS]
    return angles, source.root
  angles = stances.scatter(rng, *stances.mean_and_spread(source), 1)[0]
  if rng.random() < LYING:
    return angles, _lying(rng)
  return angles, np.array([np.radians(rng.normal(*source.lean_deg)), 0.0, 0.0])


def _lying(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
  """Turns an upright body on its back, its front or a side."""
  flat = np.zeros(3)
  flat[rng.choice([0, 2])] = np.radians(rng.choice([-90.0, 90.0]))
  roll = np.array([0.0, np.radians(rng.normal(0.0, 20.0)), 0.0])
  return _turn_after(flat, roll)


def _turn_after(second: np.ndarray, first: np.ndarray) -> Float[np.ndarray, "3"]:
  turns = rotations.axis_angle_to_matrix(np.stack([second, first]))
  return rotations.matrix_to_axis_angle(turns[0] @ turns[1])


def _choose(rng: np.random.Generator, shares: dict[str, float]) -> str:
  weights = np.fromiter(shares.values(), float)
  return list(shares)[rng.choice(len(weights), p=weights / weights.sum())]
