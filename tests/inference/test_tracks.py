"""People keep their numbers, and smoothing calms what rests and hardly delays."""

import numpy as np
import pytest

from metro_jax.inference import assignment, tracks

FPS = 30


def box(x, y, rng, width=80, height=200):
  noise = rng.normal(0, 2, 4)
  corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
  return tuple(corners + noise)


def numbers_of(paths, hidden, frames=300, seed=0):
  """Tracks people who come in a random order; returns each one's numbers."""
  rng, tracker = np.random.default_rng(seed), tracks.Tracker()
  found = [[] for _ in paths]
  for frame in range(frames):
    seen = [n for n in range(len(paths)) if frame not in hidden.get(n, ())]
    rng.shuffle(seen)
    boxes = [box(*paths[n](frame), rng) for n in seen]
    for n, number in zip(seen, tracker.update(boxes, frame), strict=True):
      found[n].append(number)
  return found


@pytest.mark.parametrize("seed", range(10))
def test_numbers_are_kept_through_a_crossing_and_a_gap_of_ten_frames(seed):
  # They are at one place in frame 145, when the second is behind the first.
  paths = [lambda f: (100 + 3 * f, 300), lambda f: (900 - 2.5 * f, 310)]
  hidden = {0: range(200, 210), 1: range(140, 150)}
  first, second = numbers_of(paths, hidden, seed=seed)
  assert len(set(first)) == len(set(second)) == 1
  assert set(first) | set(second) == {0, 1}


def test_three_people_who_cross_in_full_view_keep_their_numbers():
  paths = [
    lambda f: (100 + 3 * f, 300),
    lambda f: (900 - 3 * f, 320),
    lambda f: (500, 100 + 2 * f),
  ]
  found = numbers_of(paths, {})
  assert [len(set(numbers)) for numbers in found] == [1, 1, 1]


def test_who_comes_after_a_long_time_or_far_away_is_someone_else():
  tracker = tracks.Tracker()
  assert tracker.update([(0.0, 0.0, 50.0, 100.0)], 0) == [0]
  assert tracker.update([(300.0, 0.0, 350.0, 100.0)], 1) == [1]
  assert tracker.update([(0.0, 0.0, 50.0, 100.0)], 2) == [0]
  assert tracker.update([], 3) == []
  assert tracker.update([(0.0, 0.0, 50.0, 100.0)], 4 + tracks.LONGEST_GAP) == [2]


def test_pairs_cost_least():
  optimize = pytest.importorskip("scipy.optimize")
  rng = np.random.default_rng(0)
  for _ in range(100):
    costs = rng.random(rng.integers(1, 7, 2))
    rows, columns = optimize.linear_sum_assignment(costs)
    assert assignment.cheapest_pairs(costs) == [*zip(rows, columns, strict=True)]


def test_pairs_of_nothing_are_none():
  assert assignment.cheapest_pairs(np.zeros((0, 3))) == []


def smoothed(points, times_s, strength=1.0):
  smooth = tracks.OneEuro(strength)
  pairs = zip(points, times_s, strict=True)
  return np.array([smooth(one, time_s) for one, time_s in pairs])


def jitter(points):
  return np.linalg.norm(np.diff(points[FPS:], axis=0), axis=-1).mean()


@pytest.mark.parametrize("noise_m", [0.003, 0.01, 0.02])
def test_jitter_of_still_joints_is_at_least_halved(noise_m):
  points = np.random.default_rng(0).normal(0, noise_m, (300, 14, 3))
  calm = smoothed(points, np.arange(300) / FPS)
  assert jitter(calm) <= 0.5 * jitter(points)
  assert calm[FPS:].std() <= 0.5 * points[FPS:].std()


@pytest.mark.parametrize("hz", [1, 2, 3])
def test_a_fast_wrist_lags_less_than_two_frames(hz):
  times_s = np.arange(300) / FPS
  wave = np.exp(2j * np.pi * hz * times_s)
  wrist = np.zeros((300, 1, 3))
  wrist[:, 0, 0] = 0.25 * wave.imag
  calm = smoothed(wrist, times_s)
  late = np.angle(np.vdot(calm[60:, 0, 0], wave[60:])) - np.angle(
    np.vdot(wrist[60:, 0, 0], wave[60:])
  )
  frames = (late % (2 * np.pi)) / (2 * np.pi * hz) * FPS
  assert 0 < frames < 2


def test_a_reach_from_rest_lags_less_than_two_frames():
  share = ((np.arange(120) / FPS - 1) / 0.25).clip(0, 1)
  wrist = np.zeros((120, 1, 3))
  wrist[:, 0, 0] = 0.6 * (3 * share**2 - 2 * share**3)
  calm = smoothed(wrist, np.arange(120) / FPS)
  halfway = [np.interp(0.3, one[:, 0, 0], np.arange(120)) for one in (wrist, calm)]
  assert 0 < halfway[1] - halfway[0] < 2


def test_smoothing_does_not_depend_on_the_axes_and_can_be_switched_off():
  rng = np.random.default_rng(0)
  points, times_s = (
    rng.normal(0, 0.1, (50, 4, 3)),
    np.cumsum(rng.uniform(0.01, 0.1, 50)),
  )
  turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
  np.testing.assert_allclose(
    smoothed(points @ turn, times_s), smoothed(points, times_s) @ turn, atol=1e-12
  )
  np.testing.assert_array_equal(smoothed(points, times_s, 0.0), points)
