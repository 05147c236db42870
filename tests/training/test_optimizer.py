"""The learning rate by hand, Adam against PyTorch's published rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.training import optimizer


def make_config(**options):
  config = base.get_config()
  config.train.num_steps = 100
  config.optimizer.learning_rate = 0.5
  config.optimizer.update(options)
  return config


def rates(steps, **options):
  schedule = optimizer.schedule(make_config(**options))
  return [float(schedule(n)) for n in steps]


def test_step_divides_by_ten_once_at_the_share_of_the_run():
  got = rates((0, 59, 60, 99), schedule="step", decay_at=0.6)
  np.testing.assert_allclose(got, [0.5, 0.5, 0.05, 0.05], rtol=1e-6)


def test_step_decays_at_the_same_step_after_a_warm_up():
  got = rates((0, 5, 10, 59, 60), schedule="step", decay_at=0.6, warmup_steps=10)
  np.testing.assert_allclose(got, [0, 0.25, 0.5, 0.5, 0.05], rtol=1e-6)


def test_cosine_falls_from_the_warm_up_to_zero_at_the_end():
  got = rates((10, 55, 100), schedule="cosine", warmup_steps=10)
  np.testing.assert_allclose(got, [0.5, 0.25, 0.0], atol=1e-7)


def test_constant_stays():
  assert rates((0, 99), schedule="constant") == [0.5, 0.5]


@pytest.mark.parametrize("warmup", (100, 200))
def test_a_warm_up_longer_than_the_run_is_refused(warmup):
  with pytest.raises(ValueError, match=r"warmup_steps: expected fewer than .* \(100\)"):
    optimizer.schedule(make_config(warmup_steps=warmup))


def numpy_adam(gradients, rate, b1, b2):
  """Kingma and Ba's algorithm 1, with epsilon outside the root as PyTorch has it."""
  x, m, v = 1.0, 0.0, 0.0
  for t, g in enumerate(gradients, start=1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    x -= rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
  return x


def run(gradients, **options):
  adam = optimizer.make_optimizer(make_config(schedule="constant", **options))
  params = {"x": jnp.ones(())}
  state = adam.init(params)
  for g in gradients:
    updates, state = adam.update({"x": jnp.asarray(g, jnp.float32)}, state, params)
    params = {"x": params["x"] + updates["x"]}
  return float(params["x"])


def test_adam_has_the_configs_betas_and_no_weight_decay():
  gradients = (0.3, -2.0, 0.7)
  want = numpy_adam(gradients, 0.5, 0.8, 0.95)
  np.testing.assert_allclose(run(gradients, beta1=0.8, beta2=0.95), want, rtol=1e-5)


def test_clipping_bounds_the_gradient_norm():
  gradients = (5.0, 0.1)
  want = numpy_adam((1.0, 0.1), 0.5, 0.9, 0.999)
  np.testing.assert_allclose(run(gradients, clip_norm=1.0), want, rtol=1e-3)
  assert abs(run(gradients) - want) > 1e-2


def test_frozen_modules_have_no_gradient_and_no_moments():
  adam = optimizer.make_optimizer(make_config(frozen=("still",)))
  params = {"still": {"kernel": jnp.ones(7)}, "moving": {"kernel": jnp.ones(3)}}
  state = adam.init(params)
  assert not [x for x in jax.tree.leaves(state) if x.shape == (7,)]
  moving = optimizer.trained(params, ("still",))
  assert list(moving) == ["moving"]
  updates, _ = adam.update(moving, state, moving)
  assert list(updates) == ["moving"]
  assert np.all(updates["moving"]["kernel"] < 0)


def test_freezing_what_is_not_there_is_refused_by_name():
  adam = optimizer.make_optimizer(make_config(frozen=("bakbone",)))
  with pytest.raises(ValueError, match="among backbone, got bakbone"):
    adam.init({"backbone": {"kernel": jnp.ones(2)}})


def test_inner_modules_are_frozen_by_their_path_and_the_rest_of_a_module_moves():
  frozen = ("backbone/stem", "head")
  adam = optimizer.make_optimizer(make_config(frozen=frozen))
  params = {
    "backbone": {"stem": {"kernel": jnp.ones(7)}, "stem1": {"kernel": jnp.ones(5)}},
    "head": {"bias": jnp.ones(7)},
    "mixing": {"bias": jnp.ones(3)},
  }
  state = adam.init(params)
  assert not [x for x in jax.tree.leaves(state) if x.shape == (7,)]
  moving = optimizer.trained(params, frozen)
  assert jax.tree.map(len, moving) == {
    "backbone": {"stem1": {"kernel": 5}},
    "mixing": {"bias": 3},
  }
  updates, _ = adam.update(moving, state, moving)
  after = optimizer.completed(params, jax.tree.map(jnp.add, moving, updates))
  assert jax.tree.structure(after) == jax.tree.structure(params)
  for was, now in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True):
    assert bool((was == now).all()) == (len(was) == 7)


@pytest.mark.parametrize("clip_norm", (0.0, 1.0))
def test_the_backbones_rate_scales_its_first_update_and_no_other(clip_norm):
  params = {"backbone": {"kernel": jnp.ones(2)}, "encoder": {"kernel": jnp.ones(3)}}
  gradient = {
    "backbone": {"kernel": jnp.array([0.3, -2.0])},
    "encoder": {"kernel": jnp.array([1.0, 0.5, -4.0])},
  }

  def first_update(**options):
    adam = optimizer.make_optimizer(make_config(clip_norm=clip_norm, **options))
    return adam.update(gradient, adam.init(params), params)[0]

  whole, half = first_update(), first_update(backbone_rate=0.5)
  np.testing.assert_array_equal(
    half["backbone"]["kernel"], whole["backbone"]["kernel"] / 2
  )
  np.testing.assert_array_equal(half["encoder"]["kernel"], whole["encoder"]["kernel"])
  # Adam's first update is the rate against the gradient's sign, here 0.5.
  np.testing.assert_allclose(half["backbone"]["kernel"], [-0.25, 0.25], rtol=1e-5)


def test_the_backbones_rate_is_no_less_than_zero():
  with pytest.raises(
    ValueError, match=r"optimizer\.backbone_rate: expected zero or more"
  ):
    base.validate(make_config(backbone_rate=-0.1))
  base.validate(make_config(backbone_rate=0.0))


def test_freezing_an_inner_module_that_is_not_there_names_those_of_its_depth():
  params = {"backbone": {"stem": {"kernel": 1}, "block0": {"kernel": 1}}, "head": {}}
  with pytest.raises(
    ValueError, match=r"among backbone/stem, backbone/block0, got backbone/trunk$"
  ):
    optimizer.trained(params, ("backbone/trunk",))
  with pytest.raises(ValueError, match=r"got backbone/ste$"):
    optimizer.trained(params, ("backbone/ste",))
