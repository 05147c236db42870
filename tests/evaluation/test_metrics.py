"""Metrics against the released code's numbers, plain NumPy and hand-made cases."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.evaluation import metrics
from metro_jax.models.targets import from_root

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "helpers.npz"
SQUARE_M = jnp.array(
  [[[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.3], [0.5, 0.2, 1.0]]]
)


@pytest.fixture
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
  with np.load(GOLDENS) as file:
    return dict(file)


def numpy_alignment(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Umeyama for one example with every step written out."""
  p, q = source - source.mean(0), target - target.mean(0)
  u, s, vt = np.linalg.svd(q.T @ p / len(p))
  sign = np.diag([1, 1, np.linalg.det(u) * np.linalg.det(vt)])
  rotation = u @ sign @ vt
  scale = np.trace(np.diag(s) @ sign) / (p**2).sum(1).mean()
  return scale * p @ rotation.T + target.mean(0)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
  q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
  return q * np.linalg.det(q)


def mean_mm(predicted_m, target_m):
  """The mean distance of each example's points, as `measure` takes it."""
  return metrics.mean_of_known(metrics.distances_mm(predicted_m, target_m))


def aligned_mean_mm(predicted_m, target_m):
  """The same after the best alignment."""
  return mean_mm(metrics.aligned(predicted_m, target_m), target_m)


@pytest.mark.usefixtures("_float64")
def test_pa_mpjpe_equals_the_released_code(goldens):
  got = aligned_mean_mm(goldens["pa/in_S1"], goldens["pa/in_S2"])
  np.testing.assert_allclose(got / 1000, goldens["pa/err"], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_aligned_points_equal_the_released_code(goldens):
  s1, s2 = goldens["pa/in_S1"], goldens["pa/in_S2"]
  got = metrics.apply_similarity(metrics.similarity(s1, s2), s1)
  np.testing.assert_allclose(got, goldens["pa/S1_hat"], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_mpjpe_and_mpvpe_equal_the_released_code(goldens):
  has = goldens["mpjpe/has"] == 1
  # The released helper was given these in float32.
  s1, s2 = (goldens[f"pa/in_{k}"].astype(np.float32)[has] for k in ("S1", "S2"))
  s1, s2 = (jnp.asarray(s.astype(np.float64)) for s in (s1, s2))
  got = mean_mm(from_root(s1, "hips"), from_root(s2, "hips")) / 1000
  np.testing.assert_allclose(got, goldens["metric/f64/mpjpe"], rtol=0, atol=1e-9)
  got = mean_mm(s1, s2) / 1000
  np.testing.assert_allclose(got, goldens["metric/f64/mpve"], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_alignment_equals_umeyama_in_numpy_with_and_without_reflection():
  rng = np.random.default_rng(0)
  source = rng.standard_normal((40, 14, 3))
  target = rng.standard_normal((40, 14, 3))
  got = metrics.apply_similarity(metrics.similarity(source, target), source)
  want = np.stack([numpy_alignment(*pair) for pair in zip(source, target, strict=True)])
  np.testing.assert_allclose(got, want, atol=1e-9)
  # Half of random pairs want a mirror; the rotation must stay proper for them too.
  rotations = metrics.similarity(source, target).rotation
  np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_similarity_recovers_a_known_motion():
  rng = np.random.default_rng(1)
  source = rng.standard_normal((3, 14, 3))
  rotation = np.stack([random_rotation(rng) for _ in range(3)])
  scale, shift = np.array([0.5, 1.0, 3.0]), rng.standard_normal((3, 3))
  target = scale[:, None, None] * source @ rotation.transpose(0, 2, 1) + shift[:, None]
  got = metrics.similarity(source, target)
  np.testing.assert_allclose(got.scale, scale, rtol=1e-9)
  np.testing.assert_allclose(got.rotation, rotation, atol=1e-9)
  np.testing.assert_allclose(got.shift, shift, atol=1e-9)


def test_pa_mpjpe_in_float32_sees_micrometres_on_a_body_far_from_the_origin():
  rng = np.random.default_rng(2)
  target = rng.standard_normal((5, 14, 3)) * 0.4
  predicted = 1.3 * target @ random_rotation(rng).T + np.array([0.5, -0.3, 4.0])
  got = aligned_mean_mm(predicted.astype(np.float32), target.astype(np.float32))
  assert float(got.max()) < 2e-3


def test_pa_mpjpe_rejects_a_mirror_image():
  mirrored_m = SQUARE_M * jnp.array([-1.0, 1.0, 1.0])
  assert aligned_mean_mm(mirrored_m, SQUARE_M)[0] > 50.0


def test_mpjpe_of_a_known_offset_is_its_length_in_millimetres():
  moved_m = SQUARE_M + jnp.array([0.003, 0.004, 0.0])
  np.testing.assert_allclose(mean_mm(moved_m, SQUARE_M), [5.0], rtol=1e-4)


def test_pa_mpjpe_of_points_that_coincide_is_finite():
  target = jnp.asarray(np.random.default_rng(3).standard_normal((1, 14, 3)))
  got = aligned_mean_mm(jnp.ones((1, 14, 3)), target)
  spread = np.linalg.norm(target[0] - target[0].mean(0), axis=-1).mean() * 1000
  np.testing.assert_allclose(got, [spread], rtol=1e-5)


def test_alignment_needs_three_points():
  with pytest.raises(ValueError, match="at least 3 points, got 2"):
    aligned_mean_mm(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)))


def test_sums_leave_out_what_does_not_count_even_nan():
  errors = {"a": jnp.array([1.0, jnp.nan, 3.0]), "b": jnp.array([5.0, 6.0, jnp.inf])}
  counted = {
    "a": jnp.array([True, False, True]),
    "b": jnp.array([False, True, False]),
  }
  part = metrics.count_and_sum(errors, counted)
  assert metrics.means([part, part]) == {"a": 2.0, "b": 6.0}


def test_the_mean_over_parts_weighs_every_example_the_same():
  parts = [
    metrics.count_and_sum({"a": jnp.asarray(v)}, {"a": jnp.ones(len(v), bool)})
    for v in ([1.0], [4.0, 4.0, 4.0])
  ]
  assert metrics.means(parts) == {"a": 13.0 / 4}


def test_a_metric_without_examples_is_nan_not_zero():
  part = metrics.count_and_sum({"a": jnp.ones(2)}, {"a": jnp.zeros(2, bool)})
  assert np.isnan(metrics.means([part])["a"])


@pytest.mark.usefixtures("_float64")
def test_alignment_by_known_points_equals_that_of_these_points_alone():
  rng = np.random.default_rng(4)
  source, target = rng.standard_normal((2, 1, 14, 3))
  known = np.arange(14) % 3 != 0
  hidden = np.where(known[:, None], target[0], np.nan)[None]
  got = metrics.aligned(source, hidden, known[None])[0]
  want = numpy_alignment(source[0, known], target[0, known])
  np.testing.assert_allclose(got[known], want, atol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_alignment_follows_a_mirror_image_only_where_it_is_let_through():
  mirrored_m = SQUARE_M * jnp.array([-1.0, 1.0, 1.0])
  free = metrics.aligned(mirrored_m, SQUARE_M, proper=False)
  np.testing.assert_allclose(free, SQUARE_M, atol=1e-7)
  assert jnp.abs(metrics.aligned(mirrored_m, SQUARE_M) - SQUARE_M).max() > 0.1


def test_means_of_known_points_leave_out_the_others_even_nan():
  values = jnp.array([[1.0, jnp.nan, 5.0], [jnp.nan, jnp.inf, 2.0]])
  known = jnp.array([[True, False, True], [False, False, False]])
  np.testing.assert_array_equal(metrics.mean_of_known(values, known), [3.0, 0.0])
