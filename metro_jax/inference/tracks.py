"""Who is who from frame to frame, and smooth motion.

People keep their numbers by their boxes: each is expected to go on as before, and boxes
and expectations are paired so that they differ least in place and size.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from metro_jax.inference import assignment
from metro_jax.inference.boxes import Corners

LONGEST_GAP = 20  # frames that a person may be unseen
FARTHEST = 0.6  # of a box from the place it is expected at, over its longer side
FARTHER = 0.06  # for each frame of a gap
GAP_COST = 0.02  # for each frame: of two who may be meant, it is the one just seen
PLACE_GAIN, SPEED_GAIN = 0.64, 0.16  # of what was not expected; critically damped
SIZE_COST = 0.5  # of sizes in the ratio e, over distances of a box's longer side
MIN_CUTOFF_HZ = 1.0  # of what stands still
CUTOFF_PER_SPEED = 3.0  # Hz for each m/s
SPEED_CUTOFF_HZ = 2.5


@dataclasses.dataclass
class _Track:
  """One person's box: center x, y, width, height, and their change in a frame."""

  number: int
  place: np.ndarray
  speed: np.ndarray
  last: int
  seen: int = 1

  def expected(self, frame: int) -> np.ndarray:
    return self.place + self.speed * (frame - self.last)

  def follow(self, place: np.ndarray, frame: int) -> None:
    steps = frame - self.last
    surprise = place - self.expected(frame)
    gain = max(SPEED_GAIN, 1 / (1 + self.seen))  # at first there is no speed to keep
    self.speed[:2] += gain * surprise[:2] / steps
    self.place = place - (1 - PLACE_GAIN) * surprise
    self.last, self.seen = frame, self.seen + 1


class Tracker:
  """Numbers people by their boxes, one frame after another."""

  def __init__(self) -> None:
    self._tracks: list[_Track] = []
    self._count = 0

  def update(self, boxes: Sequence[Corners], frame: int) -> list[int]:
    """Tells whose the boxes of the next frame are.

    Args:
      boxes: Left, top, right, bottom, pixels.
      frame: Its number, larger than the one before.

    Returns:
      A number for each box; people who were not seen before get the next ones, from 0.
    """
    self._tracks = [t for t in self._tracks if frame - t.last <= LONGEST_GAP + 1]
    places = [_place(box) for box in boxes]
    numbers = [-1] * len(boxes)
    for track, n in self._pairs(places, frame):
      track.follow(places[n], frame)
      numbers[n] = track.number
    for n, place in enumerate(places):
      if numbers[n] < 0:
        self._tracks.append(_Track(self._count, place, np.zeros(4), frame))
        numbers[n], self._count = self._count, self._count + 1
    return numbers

  def _pairs(self, places: list[np.ndarray], frame: int) -> list[tuple[_Track, int]]:
    if not places or not self._tracks:
      return []
    gaps = np.array([frame - t.last for t in self._tracks])[:, None]
    limits = FARTHEST + FARTHER * gaps
    costs = GAP_COST * gaps + np.array(
      [[_difference(t.expected(frame), p) for p in places] for t in self._tracks]
    )
    far = limits.max() * min(costs.shape) * 2  # costs more than any number of near ones
    allowed = costs <= limits
    pairs = assignment.cheapest_pairs(np.where(allowed, costs, far))
    return [(self._tracks[t], n) for t, n in pairs if allowed[t, n]]


def _place(box: Corners) -> np.ndarray:
  x0, y0, x1, y1 = box
  return np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])


def _difference(expected: np.ndarray, seen: np.ndarray) -> float:
  """How little a box is another: distance over size, and the sizes' ratio."""
  sides = np.maximum([expected[2:].max(), seen[2:].max()], 1e-6)
  distance = np.hypot(*(seen - expected)[:2]) / sides.mean()
  return float(distance + SIZE_COST * abs(np.log(sides[0] / sides[1])))


class OneEuro:
  """Smooths points over time: strongly where they rest, hardly where they are fast.

  x' += a (x - x') with a = 1 / (1 + 1 / (2 π f dt)) and f = cutoff + slope |v|, where v
  is the likewise smoothed velocity, for each point by itself.

  Args:
    strength: Divides all cutoffs; 0 smooths nothing.

  Source: Casiez, Roussel and Vogel, "1 € Filter", CHI 2012. We take the speed of a
    point, not that of each coordinate, so that the axes do not matter.
  """

  def __init__(self, strength: float = 1.0):
    self._strength = strength
    self._time_s = 0.0
    self._points: np.ndarray | None = None
    self._velocity: np.ndarray = np.zeros(())

  def __call__(
    self, points: Float[np.ndarray, "n d"], time_s: float
  ) -> Float[np.ndarray, "n d"]:
    """Smooths the next points.

    Args:
      points: Metres.
      time_s: Later than the ones before.
    """
    if self._strength == 0:
      return points
    if self._points is None:
      self._points, self._time_s = points.astype(np.float64), time_s
      self._velocity = np.zeros(points.shape)
      return points
    step_s = time_s - self._time_s
    self._time_s = time_s
    self._velocity += _gain(SPEED_CUTOFF_HZ, step_s) * (
      (points - self._points) / step_s - self._velocity
    )
    speed = np.linalg.norm(self._velocity, axis=-1, keepdims=True)
    cutoff_hz = (MIN_CUTOFF_HZ + CUTOFF_PER_SPEED * speed) / self._strength
    self._points = self._points + _gain(cutoff_hz, step_s) * (points - self._points)
    return self._points.astype(points.dtype)


def _gain(cutoff_hz, step_s: float):
  return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * step_s))
