"""All devices of this machine: mapping steps, copying state, sharding batches.

The only place that calls `jax.pmap`. Stacked means with a leading axis of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from metro_jax.models.metro import AXIS
from metro_jax.models.setup import Geometry

Tree = Any  # a pytree of arrays


def map_step(
  step: Callable[..., Tree], geometry: Geometry, *, donate: bool
) -> Callable[[Tree, Tree], Tree]:
  """Runs a per-device step on all devices at once.

  Args:
    step: step(state, batch, geometry), using the axis `step.AXIS`.
    geometry: Constant arrays; copied to every device once, here.
    donate: Whether the state's memory is reused for the result. The state that went
      in must then not be used again.

  Returns:
    mapped(state, batch) on stacked trees, with a stacked result.
  """
  mapped = _mapped(step, donate, None)
  constants = replicate(geometry)
  return lambda state, batch: mapped(state, batch, constants)


def lower_step(
  step: Callable[..., Tree],
  geometry: Geometry,
  state: Tree,
  batch: Tree,
  devices: Sequence[Any],
  *,
  donate: bool,
) -> jax.stages.Lowered:
  """What `map_step` runs, before compilation, for devices that need not be here.

  Args:
    step: As for `map_step`.
    geometry: As for `map_step`.
    state: One device's, arrays or shapes.
    batch: One device's, arrays or shapes.
    devices: To compile for.
    donate: As for `map_step`.
  """

  def stacked(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((len(devices), *np.shape(x)), x.dtype)

  mapped = _mapped(step, donate, devices)
  return mapped.lower(*jax.tree.map(stacked, (state, batch, geometry)))


def _mapped(
  step: Callable[..., Tree], donate: bool, devices: Sequence[Any] | None
) -> Any:  # a jax.stages.Wrapped, which a type checker at run time denies
  """mapped(state, batch, geometry), over all devices by default."""
  donated = (0,) if donate else ()
  return jax.pmap(step, axis_name=AXIS, donate_argnums=donated, devices=devices)


def replicate(tree: Tree) -> Tree:
  """A copy of every array on each of this process's devices, stacked.

  The copies share no memory with the originals, so they may be donated.
  """
  sharding = _sharding(jax.local_devices())
  count = jax.local_device_count()

  def spread(x: Any) -> jax.Array:
    x = np.asarray(x)
    shards = [
      jax.device_put(x[None], device, may_alias=False) for device in jax.local_devices()
    ]
    return jax.make_array_from_single_device_arrays((count, *x.shape), sharding, shards)

  return jax.tree.map(spread, tree)


def unreplicate(tree: Tree) -> Tree:
  """The first device's copy of a stacked tree, as NumPy arrays of their own.

  Waits for the devices. The arrays survive the donation of the stacked ones.
  """
  first = jax.tree.map(lambda x: x.addressable_data(0), tree)  # the others are the same
  for x in jax.tree.leaves(first):
    x.copy_to_host_async()
  return jax.tree.map(lambda x: np.array(np.asarray(x)[0]), first)


def shard(batch: Tree) -> Tree:
  """Splits this process's batch over its devices, in order, and starts the copies.

  Args:
    batch: NumPy arrays with the same leading axis.

  Returns:
    The same, stacked: (devices, examples a device, ...).

  Raises:
    ValueError: If the examples do not divide by the devices.
  """
  count = jax.local_device_count()
  sharding = _sharding(jax.local_devices())

  def split(x: np.ndarray) -> jax.Array:
    if len(x) % count:
      raise ValueError(
        f"batch of {len(x)} examples: expected a multiple of the {count} devices"
      )
    return jax.device_put(x.reshape(count, len(x) // count, *x.shape[1:]), sharding)

  return jax.tree.map(split, batch)


def gather(tree: Tree) -> Tree:
  """The opposite of `shard`: NumPy arrays with one leading axis of examples."""

  def join(x: jax.Array | np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[2:])

  return jax.tree.map(join, tree)


def check_batch_size(key: str, batch_size: int) -> None:
  """Fails early if a batch size of the config does not fit the devices.

  Raises:
    ValueError: Naming the config key.
  """
  count = jax.device_count()
  if batch_size % count:
    raise ValueError(
      f"config.{key}: expected a multiple of the {count} devices, got {batch_size}"
    )


def _sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
  mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
