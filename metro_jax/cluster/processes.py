"""Where the processes of a run are: read from the environment, then joined.

`find` is the one place that decides whether a command runs alone or as one of several,
and `join` the only one that calls `jax.distributed`. What the processes say to each
other afterwards stands in `team.py`.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax

from metro_jax.cluster import rendezvous
from metro_jax.cluster.process_group import Team

FIRST_PORT, PORTS = 61_440, 4_096  # of coordinators whose port follows from a job's id
HEARTBEAT_S = 60  # after so long of silence JAX itself ends a run
EXPLICIT = ("METRO_COORDINATOR", "METRO_PROCESSES", "METRO_PROCESS")


class Place(NamedTuple):
  """What one process knows of the run's processes before it has met them.

  Attributes:
    source: What told it so, for messages.
    coordinator: "host:port" of the first process; None leaves all to JAX.
    count: How many processes there are; None leaves it to JAX.
    index: Which one this is, from 0; None leaves it to JAX.
    local_devices: Which of the machine's devices are this process's; None: all.
  """

  source: str
  coordinator: str | None = None
  count: int | None = 1
  index: int | None = 0
  local_devices: tuple[int, ...] | None = None


def find(environment: Mapping[str, str] | None = None) -> Place:
  """Decides from the environment whether a command runs alone or as one of several.

  The first of these that applies decides:

  1. `METRO_PROCESSES=1`: alone, whatever else is set.
  2. `METRO_COORDINATOR=host:port`, `METRO_PROCESSES` and `METRO_PROCESS` (from 0):
     exactly so. In an indexed Kubernetes Job or a JobSet, `METRO_PROCESS` may be left
     out: it is then `JOB_COMPLETION_INDEX`. `METRO_LOCAL_DEVICES=0,1` picks devices.
  3. Slurm, in a step of more than one task (`srun`): `SLURM_PROCID` of
     `SLURM_NTASKS`, coordinator on the first host of `SLURM_STEP_NODELIST`.
  4. Open MPI, with more than one rank: `OMPI_COMM_WORLD_RANK` of
     `OMPI_COMM_WORLD_SIZE`, coordinator where `mpirun` runs. Open MPI 5 does not say
     where that is: set `METRO_COORDINATOR`.
  5. A machine with TPUs: JAX asks Cloud TPU's or Kubernetes' own variables.
  6. Otherwise alone.

  With several tasks of Slurm or Open MPI on one machine each takes the device of its
  local number, unless the launcher already shows it one device only.

  Args:
    environment: Variables; those of this process by default.

  Returns:
    Where this process stands.

  Raises:
    ValueError: If variables contradict each other or only some are set, naming them.
  """
  env = os.environ if environment is None else environment
  if env.get("METRO_PROCESSES") == "1":
    return Place("METRO_PROCESSES=1")
  launcher = _slurm(env) or _open_mpi(env)
  if launcher is None and any(env.get(name) for name in EXPLICIT):
    return _explicit(env)
  if launcher is not None:
    return launcher
  if _has_tpus(env):
    return Place("Cloud TPU", count=None, index=None)
  return Place("no launcher")


def join(place: Place, limit_s: float = 300.0) -> Team:
  """Meets the other processes; before anything else touches a device.

  Args:
    place: What `find` gave.
    limit_s: How long to wait for all of them.

  Returns:
    The processes of the run.

  Raises:
    AbsentError: If not all came in time, naming who is missing.
    ValueError: If JAX cannot connect them.
  """
  if place.count == 1:
    return Team(source=place.source)
  if place.coordinator:
    rendezvous.hold(place.coordinator, place.count, place.index, limit_s)
  # It would take SIGTERM for itself, and answer it between steps only.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      place.coordinator,
      place.count,
      place.index,
      local_device_ids=place.local_devices,
      cluster_detection_method="deactivate" if place.coordinator else None,
      initialization_timeout=int(limit_s),
      heartbeat_timeout_seconds=HEARTBEAT_S,
    )
  except (RuntimeError, ValueError, OSError) as error:
    reason = " ".join(str(error).split())[:300]
    raise ValueError(
      f"{place.source}: cannot connect the processes: {reason}; METRO_PROCESSES=1 runs "
      "this one alone"
    ) from error
  return Team(jax.process_index(), jax.process_count(), place.source, limit_s)


def _explicit(env: Mapping[str, str]) -> Place:
  named = {name: env.get(name) for name in EXPLICIT}
  if not named["METRO_PROCESS"]:
    named["METRO_PROCESS"] = env.get("JOB_COMPLETION_INDEX")
  missing = [name for name, value in named.items() if not value]
  if missing:
    given = ", ".join(f"{k}={v}" for k, v in named.items() if v)
    raise ValueError(
      f"environment: expected {' and '.join(missing)} beside {given or 'nothing'}, or "
      "METRO_PROCESSES=1 to run alone"
    )
  count = _whole(env, "METRO_PROCESSES", 1)
  index = _whole({"METRO_PROCESS": named["METRO_PROCESS"]}, "METRO_PROCESS", 0)
  return _checked("METRO_COORDINATOR", named["METRO_COORDINATOR"], count, index, env)


def _slurm(env: Mapping[str, str]) -> Place | None:
  names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
  if not all(env.get(name) for name in names) or env["SLURM_NTASKS"] == "1":
    return None
  count, index = _whole(env, "SLURM_NTASKS", 1), _whole(env, "SLURM_PROCID", 0)
  job, step = _whole(env, "SLURM_JOB_ID", 0), env.get("SLURM_STEP_ID", "0")
  port = FIRST_PORT + (job + (int(step) if step.isdecimal() else 0)) % PORTS
  coordinator = f"{first_host(env['SLURM_STEP_NODELIST'])}:{port}"
  # "2(x3),1": so many tasks on each node.
  per_node = re.split(r"\D", env.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0]
  local = _local_device(env, int(per_node or 1), env.get("SLURM_LOCALID"))
  return _checked("Slurm", coordinator, count, index, env, local)


def first_host(nodes: str) -> str:
  """The first host of a Slurm list such as "a[003-5,9]-x,b"."""
  first = re.match(r"(?:\[[^]]*\]|[^,[])+", nodes)
  if first is None:
    raise ValueError(f"SLURM_STEP_NODELIST: expected hosts, got {nodes!r}")
  return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first[0])


def _open_mpi(env: Mapping[str, str]) -> Place | None:
  names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
  if not all(env.get(name) for name in names) or env[names[0]] == "1":
    return None
  count, index = (_whole(env, name, 0) for name in names)
  uri = env.get("OMPI_MCA_orte_hnp_uri", "")
  address = re.search(r"tcp://([^,:]+)|tcp6://(\[[^],]+)", uri)
  coordinator = env.get("METRO_COORDINATOR")
  if not coordinator and address is None:
    raise ValueError(
      f"Open MPI, rank {index} of {count}: expected METRO_COORDINATOR=host:port of "
      "rank 0 (this version does not say where that is), got nothing"
    )
  if not coordinator:
    host = address[1] or address[2] + "]"
    job = uri.split(".")[0]
    coordinator = f"{host}:{FIRST_PORT + (int(job) >> 12) % PORTS}"
  here = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
  local = _local_device(env, here, env.get("OMPI_COMM_WORLD_LOCAL_RANK"))
  return _checked("Open MPI", coordinator, count, index, env, local)


def _local_device(
  env: Mapping[str, str], processes_here: int, number: str | None
) -> tuple[int, ...] | None:
  """One device a process where several share a machine; None: all that are shown."""
  shown = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
  one_shown = len(shown) == 1 and shown[0] != ""
  return None if processes_here < 2 or one_shown or not number else (int(number),)


def _checked(
  source: str,
  coordinator: str,
  count: int,
  index: int,
  env: Mapping[str, str],
  local_devices: tuple[int, ...] | None = None,
) -> Place:
  if not re.fullmatch(r".+:\d+", coordinator):
    raise ValueError(f"{source}: expected a coordinator host:port, got {coordinator!r}")
  if not 0 <= index < count:
    raise ValueError(f"{source}: expected a process from 0 to {count - 1}, got {index}")
  chosen = env.get("METRO_LOCAL_DEVICES")
  if chosen:
    try:
      local_devices = tuple(int(number) for number in chosen.split(","))
    except ValueError:
      raise ValueError(
        f"METRO_LOCAL_DEVICES: expected numbers such as 0,1, got {chosen!r}"
      ) from None
  return Place(source, coordinator, count, index, local_devices)


def _whole(env: Mapping[str, str], name: str, least: int) -> int:
  text = env[name]
  if not text.isdecimal() or int(text) < least:
    raise ValueError(f"{name}: expected a whole number from {least}, got {text!r}")
  return int(text)


def _has_tpus(env: Mapping[str, str]) -> bool:
  """Whether JAX would run on TPUs: its chips, libtpu, and no other platform."""
  platforms = env.get("JAX_PLATFORMS", "")
  if platforms and "tpu" not in platforms:
    return False
  if importlib.util.find_spec("libtpu") is None:
    return False
  hosts = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES", ""))
  if "TPU_SKIP_MDS_QUERY" in env and "," not in hosts:
    return False
  from jax._src import hardware_utils

  # Google's network cards have the vendor of its chips; JAX knows the chips.
  chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  return chips > 0
