"""Operations of products, against formulas and METRO's published counts."""

import jax
import jax.numpy as jnp
import pytest

from metro_jax import config as base
from metro_jax.models import setup
from metro_jax.planning import products
from metro_jax.training.step import AXIS


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def flops(function, *arguments):
  return sum(product.flops for product in products.of(function, *arguments))


def test_a_product_of_matrices_takes_two_operations_a_triple():
  assert flops(jnp.matmul, array(5, 7), array(7, 11)) == 2 * 5 * 7 * 11


def test_a_batched_product_counts_its_batch():
  found = products.of(
    lambda x, y: jnp.einsum("bqd,bkd->bqk", x, y), array(3, 5, 7), array(3, 11, 7)
  )
  assert found == [products.Product("", 3, 5, 7, 11, 1)]


def test_a_product_and_its_two_gradients_take_three_times_as_many():
  def loss(x, y):
    return (x @ y).sum()

  both = jax.value_and_grad(loss, argnums=(0, 1))
  assert flops(both, array(5, 7), array(7, 11)) == 3 * (2 * 5 * 7 * 11)


def convolve(x, kernel, stride=1):
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=numbers
  )


@pytest.mark.parametrize("stride", (1, 2))
def test_a_convolution_counts_every_place_of_its_result(stride):
  side = 8 // stride
  got = flops(lambda x, k: convolve(x, k, stride), array(2, 8, 8, 5), array(3, 3, 5, 6))
  assert got == 2 * (2 * side * side) * (3 * 3 * 5) * 6


@pytest.mark.parametrize("stride", (1, 2))
def test_a_convolutions_gradients_cost_what_it_costs(stride):
  def loss(x, k):
    return convolve(x, k, stride).sum()

  both = jax.value_and_grad(loss, argnums=(0, 1))
  side = 8 // stride
  once = 2 * (2 * side * side) * (3 * 3 * 5) * 6
  got = flops(both, array(2, 8, 8, 5), array(3, 3, 5, 6))
  assert got == pytest.approx(3 * once, rel=1e-6)


def test_a_loop_counts_its_turns():
  def repeated(x):
    return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=9)[0]

  assert flops(jax.jit(repeated), array(4, 4)) == 9 * 2 * 4**3


def test_a_mapped_step_counts_one_device():
  def step(x, y):
    return jax.lax.pmean(x @ y, AXIS)

  found = products.of_step(step, AXIS, array(5, 7), array(7, 11))
  assert sum(product.flops for product in found) == 2 * 5 * 7 * 11


def test_tiles_fill_up_the_inner_side_and_the_better_outer_side():
  scores = products.Product("", 1, 445, 64, 445, 1)
  # 64 to 128; of 445 x 445 one side to 512 and the other to 448.
  assert scores.tiled_flops(128) == 2 * 128 * 512 * 448
  whole = products.Product("", 2, 512, 256, 128, 3)
  assert whole.tiled_flops(128) == whole.flops == 3 * 2 * 2 * 512 * 256 * 128


@pytest.mark.parametrize(
  ("backbone", "total", "of_backbone"),
  [("resnet50", 63.3e9, 8.2e9), ("hrnet_w64", 112.9e9, 57.8e9)],
)
def test_metros_forward_pass_has_the_published_operations(backbone, total, of_backbone):
  # The original's FLOPs an image, forward, as counted on the released code.
  config = base.get_config()
  config.model.backbone = backbone
  network = setup.build(config)
  px = config.data.image_px
  variables = setup.variable_shapes(network, config)

  def forward(variables, images):
    return network.model.apply(variables, images, network.template)

  found = products.of(forward, variables, array(1, px, px, 3))
  parts = products.by_part(found)
  assert sum(parts.values()) == pytest.approx(total, rel=0.01)
  assert parts["backbone"] == pytest.approx(of_backbone, rel=0.01)
  assert {"encoder/block0", "encoder/block1", "encoder/block2"} <= set(parts)
