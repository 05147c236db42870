"""The backbones' shapes and types; their numbers are in test_metro_goldens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.models.resnet import ResNet

# Channels of the last map, and parameters without torchvision's classifier
# (11,689,512 - 513,000; 21,797,672 - 513,000; 25,557,032 - 2,049,000).
VARIANTS = {
  "resnet18": (512, 11_176_512),
  "resnet34": (512, 21_284_672),
  "resnet50": (2048, 23_508_032),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_and_parameter_counts_are_torchvisions(variant: str):
  network = ResNet(variant)
  images = jnp.zeros((1, 64, 96, 3))
  features, variables = jax.eval_shape(
    lambda key: network.init_with_output(key, images), jax.random.key(0)
  )
  channels, parameters = VARIANTS[variant]
  assert features.shape == (1, 2, 3, channels)
  leaves = jax.tree.leaves(variables["params"])
  assert sum(np.prod(leaf.shape) for leaf in leaves) == parameters


def test_the_width_scales_every_channel():
  network = ResNet("resnet50", width=16)
  features = jax.eval_shape(
    lambda key: network.init_with_output(key, jnp.zeros((1, 32, 32, 3)))[0],
    jax.random.key(0),
  )
  assert features.shape == (1, 1, 1, 512)


def test_bfloat16_arithmetic_leaves_parameters_and_statistics_in_float32():
  network = ResNet("resnet18", width=4, dtype=jnp.dtype("bfloat16"))
  images = jnp.zeros((2, 32, 32, 3))

  def run(key: jax.Array):
    variables = network.init(key, images)
    return variables, network.apply(variables, images, True, mutable=["batch_stats"])

  variables, (features, updates) = jax.eval_shape(run, jax.random.key(0))
  assert features.dtype == jnp.bfloat16
  kept = jax.tree.leaves((variables, updates))
  assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
