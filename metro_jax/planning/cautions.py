"""What a plan should make its reader think about: waste, memory, hosts."""

from ml_collections import ConfigDict

from metro_jax.body import joints
from metro_jax.planning.plan import Plan

TIGHT = 0.9  # share of the memory above which little is left
WASTE = 0.05  # share of padding below which nothing is said
DISAGREEMENT = 0.25  # of two counts of operations


def of(plan: Plan, config: ConfigDict, images_per_core: float = 0.0) -> list[str]:
  """Sentences about a plan, the worst first.

  Args:
    plan: Of a config on a target.
    config: The whole config.
    images_per_core: What a core decodes and augments a second; 0 if not measured.
  """
  return [
    *_memory(plan),
    *_padding(plan, config),
    *_hosts(plan, config, images_per_core),
    *_counts(plan),
    *_scratch(plan),
  ]


def _scratch(plan: Plan) -> list[str]:
  if plan.train.program.exact:
    return []
  return [
    "compiled with less scratch memory an operation than in training, in half the "
    "time: code is shorter, bytes moved differ by some percent; see --exact"
  ]


def tokens(config: ConfigDict) -> int:
  """The network's queries: joints and vertices of the coarsest mesh."""
  hand = config.body.model == "mano"
  named = joints.HAND21 if hand else joints.J14
  return len(named) + min(config.body.levels)


def _memory(plan: Plan) -> list[str]:
  limit, needed = plan.target.memory_bytes, plan.train.program.needed_bytes
  if plan.fits and limit and needed > TIGHT * limit:
    return [f"memory: {needed / limit:.0%} of a chip's is taken"]
  return []


def _padding(plan: Plan, config: ConfigDict) -> list[str]:
  chip, step = plan.target.chip, plan.train
  if plan.target.devices[0].platform != "tpu" or chip is None:
    return []
  found, tile, lanes = [], chip.product_tile, 128
  count = tokens(config)
  filled = count / _up(count, lanes)
  if 1 - filled > WASTE:
    found.append(
      f"padding: {count} tokens take {_up(count, lanes)} lanes in attention scores and "
      f"{_up(count, 8)} rows elsewhere: {1 - filled:.0%} of the lanes are empty"
    )
  for n, width in enumerate(config.model.hidden_widths):
    head = width // config.model.num_heads
    if head < tile:
      found.append(
        f"padding: heads of encoder block {n} are {head} wide and take {tile} of the "
        f"matrix unit: {1 - head / tile:.0%} of it idles in their products"
      )
  if step.flops and 1 - step.flops / step.tiled_flops > WASTE:
    found.append(
      f"padding: whole {tile} x {tile} tiles make {step.tiled_flops / step.flops:.2f} "
      "times the products' operations"
    )
  traffic = step.traffic
  if traffic.bytes and 1 - traffic.bytes / traffic.padded_bytes > WASTE:
    found.append(
      f"padding: {1 - traffic.bytes / traffic.padded_bytes:.0%} of the bytes moved "
      "fill up tiles"
    )
  return found


def _up(size: int, tile: int) -> int:
  return -(-size // tile) * tile


def _hosts(plan: Plan, config: ConfigDict, images_per_core: float) -> list[str]:
  speed, chip = plan.images_per_second, plan.target.chip
  if not speed or not images_per_core or chip is None:
    return []
  each = speed / plan.target.hosts
  cores = each / images_per_core
  threads = config.data.read_threads or chip.host_threads  # 0: one a core
  found = []
  if threads and cores > threads:
    found.append(
      f"hosts: each must read {each:,.0f} images/s at that speed, {cores:,.0f} cores "
      f"like this machine's; config.data.read_threads makes it {threads}"
    )
  if chip.host_threads and cores > chip.host_threads:
    found.append(
      f"hosts: {cores:,.0f} cores are more than the {chip.host_threads} threads of "
      f"a host of {plan.target.name}: the input will be what limits it"
    )
  return found


def _counts(plan: Plan) -> list[str]:
  """Says so where the compiler's count of operations cannot be right."""
  ours, theirs = plan.train.flops, plan.train.program.flops
  if not plan.train.program.memory or not ours:
    return []
  if abs(theirs - ours) <= DISAGREEMENT * ours:
    return []
  return [
    f"operations: the compiler counts {theirs / 1e9:.0f} GFLOP a step, the trace has "
    f"{ours / 1e9:.0f} in its products; bounds take the trace's"
  ]
