"""What to compile for: TPU slices that are not here, or the devices that are.

libtpu describes a slice by name alone and compiles for it on a CPU. Everything that
needs it says so in one line where it is not installed.
"""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from metro_jax.planning import chips
from metro_jax.planning.chips import Chip

LOCAL = "local"
GENERATIONS = ("v5e", "v5p", "v6e")
# What libtpu must hear where there is no TPU: it would ask a server that is not there,
# and let one process alone compile.
ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_SLICE = re.compile(r"(\w+):\d+(x\d+){0,2}")
_AVAILABLE = re.compile(r"exceeds available HBM \(([\d.]+)([KMGT])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Code for more scratch memory is longer: with the compiler's own 16 MiB, compiling
# takes twice as long. What lives in main memory hardly depends on it.
SMALL_SCRATCH = {"xla_tpu_scoped_vmem_limit_kib": "5120"}
_TOO_MUCH = 10**12  # numbers, more than any chip holds


class Target(NamedTuple):
  """Devices to compile for.

  Attributes:
    name: As asked for, such as "v5e:4x4".
    devices: All of them.
    hosts: Processes that drive them.
    chip: Their published figures; None if there are none.
    memory_bytes: What a program may use of each; 0 if unknown.
    options: For the compiler, beside those that training has.
  """

  name: str
  devices: tuple[Any, ...]
  hosts: int
  chip: Chip | None
  memory_bytes: float
  options: Mapping[str, str] = {}


def prepare(names: Sequence[str]) -> None:
  """Checks names and sets up the process; to be called before any device is used.

  Args:
    names: Of the topologies.

  Raises:
    ValueError: If a name is malformed or of no known generation.
    OSError: If libtpu is needed and not installed.
  """
  for name in names:
    match = _SLICE.fullmatch(name)
    if name != LOCAL and (match is None or match[1] not in GENERATIONS):
      raise ValueError(
        f"topology: expected {LOCAL} or a slice of {', '.join(GENERATIONS)} such as "
        f"v5e:4x4 or v5p:2x2x4, got {name!r}"
      )
  if all(name == LOCAL for name in names):
    return
  if importlib.util.find_spec("libtpu") is None:
    raise OSError(
      f"topology {next(n for n in names if n != LOCAL)}: expected libtpu, which "
      "compiles for TPUs without one, found none; pip install 'metro_jax[tpu]'"
    )
  os.environ |= ENVIRONMENT
  if LOCAL not in names:
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")


def open_target(name: str, exact: bool = False) -> Target:
  """The devices of a topology.

  Args:
    name: "local" or the name of a slice; `prepare` must have seen it.
    exact: Whether to compile for a slice just as training does; otherwise with
      `SMALL_SCRATCH`. For the devices that are here it is always so.

  Raises:
    ValueError: If there is no slice of this shape, in libtpu's words.
  """
  if name == LOCAL:
    devices = tuple(jax.devices())
    hosts = jax.process_count()
  else:
    devices = _slice_devices(name)
    hosts = len({device.process_index for device in devices})
  chip = chips.of(devices[0].device_kind)
  options = {} if exact or name == LOCAL else SMALL_SCRATCH
  return Target(name, devices, hosts, chip, _usable_memory(devices, chip), options)


def _slice_devices(name: str) -> tuple[Any, ...]:
  try:
    described = topologies.get_topology_desc(topology_name=name, platform="tpu")
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f"topology {name}: expected a slice that libtpu knows, got "
      f"{' '.join(str(error).split())}"
    ) from error
  return tuple(described.devices)


def _usable_memory(devices: Sequence[Any], chip: Chip | None) -> float:
  """Bytes that a program may use: the compiler's own limit, else the device's."""
  device = devices[0]
  if device.platform == "tpu":
    limit = _compiler_limit(device)
    return limit or (chip.memory_bytes if chip else 0.0)
  try:
    stats = device.memory_stats() or {}
  except (NotImplementedError, RuntimeError):
    stats = {}
  return float(stats.get("bytes_limit", chip.memory_bytes if chip else 0))


def _compiler_limit(device: Any) -> float:
  """What the TPU compiler says it has when a program asks for far too much."""
  there = jax.sharding.SingleDeviceSharding(device)
  shape = jax.ShapeDtypeStruct((_TOO_MUCH,), "float32", sharding=there)
  try:
    jax.jit(lambda x: 2 * x).lower(shape).compile()
  except RuntimeError as error:
    found = _AVAILABLE.search(str(error))
    return float(found[1]) * _UNITS[found[2]] if found else 0.0
  return 0.0
