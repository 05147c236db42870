"""Mask modelling: which tokens training hides, chosen on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, UInt32

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]


def sample_mask(
  key: PRNGKey, batch: int, num_joints: int, num_vertices: int, fraction: float
) -> Bool[Array, "{batch} {num_joints}+{num_vertices}"]:
  """Draws masked tokens, for every example by itself.

  Of N joints, and separately of N vertices, ⌊u · fraction · N⌋ are masked, with
  u ~ U(0, 1) and the positions drawn without replacement.

  Args:
    key: Randomness.
    batch: Examples.
    num_joints: Joint tokens, which come first.
    num_vertices: Vertex tokens.
    fraction: Most of the tokens that may be masked, 0 to 1.

  Returns:
    True where a token is masked.

  Source: METRO section 3.3; original code, metro/datasets/human_mesh_tsv.py.
  """
  joints_key, vertices_key = jax.random.split(key)
  groups = ((joints_key, num_joints), (vertices_key, num_vertices))
  return jnp.concatenate(
    [
      jax.vmap(lambda k, n=count: _mask_one(k, n, fraction))(
        jax.random.split(group_key, batch)
      )
      for group_key, count in groups
    ],
    axis=1,
  )


def _mask_one(key: PRNGKey, count: int, fraction: float) -> Bool[Array, " t"]:
  """The mask of one example's joints, or of its vertices."""
  amount_key, order_key = jax.random.split(key)
  amount = jnp.floor(jax.random.uniform(amount_key) * fraction * count)
  return jax.random.permutation(order_key, count) < amount
