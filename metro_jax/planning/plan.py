"""What a config will need and at best do on a target, from its compiled steps."""

from concurrent import futures
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from metro_jax.models.setup import Network
from metro_jax.planning import hlo, products, programs
from metro_jax.planning.hlo import Collectives, Traffic
from metro_jax.planning.programs import Program, Step
from metro_jax.planning.targets import Target
from metro_jax.training.step import AXIS

COMPILE_THREADS = 2  # a compilation keeps about one core busy


class Bounds(NamedTuple):
  """Least seconds that a step can take on one chip, by what it is short of.

  Attributes:
    products: Its matrix products at the chip's peak.
    memory: Its traffic with main memory at the published bandwidth.
    links: Its exchanges at the published bandwidth, a ring over all chips.
  """

  products: float
  memory: float
  links: float

  @property
  def seconds(self) -> float:
    """Of a step that does all three at once."""
    return max(self)

  @property
  def limit(self) -> str:
    """What takes longest."""
    return max(self._fields, key=lambda name: getattr(self, name))


class StepPlan(NamedTuple):
  """One step on a target.

  Attributes:
    examples: A chip's share of the batch.
    program: What the compiler says.
    flops: Matrix products and convolutions of a chip's share.
    tiled_flops: The same with their sides filled up to the matrix unit's tiles.
    parts: `flops` of each part of the network.
    traffic: With a chip's main memory.
    collectives: Exchanges by kind.
    bounds: None where nothing is published or the program does not fit.
  """

  examples: int
  program: Program
  flops: float
  tiled_flops: float
  parts: dict[str, float]
  traffic: Traffic
  collectives: dict[str, Collectives]
  bounds: Bounds | None


class Plan(NamedTuple):
  """A config on a target.

  Attributes:
    target: The devices.
    train: The training step.
    evaluate: The evaluation step.
    largest: Most training examples a chip, by a line; 0 if it is not known.
    compared: The other number of examples that was compiled for that line; 0 if it
      starts from what a step of no examples needs.
  """

  target: Target
  train: StepPlan
  evaluate: StepPlan
  largest: int
  compared: int

  @property
  def fits(self) -> bool:
    """Whether both steps fit."""
    limit = self.target.memory_bytes
    steps = (self.train, self.evaluate)
    return all(
      step.program.memory is not None
      and (not limit or step.program.needed_bytes <= limit)
      for step in steps
    )

  @property
  def images_per_second(self) -> float:
    """No more than this in training, on all chips; 0 if it is not known."""
    if self.train.bounds is None:
      return 0.0
    return self.train.examples * len(self.target.devices) / self.train.bounds.seconds


def share(key: str, batch_size: int, target: Target) -> int:
  """A chip's examples of a batch over all of them.

  Raises:
    ValueError: If the batch does not divide by the chips.
  """
  count = len(target.devices)
  if batch_size % count:
    raise ValueError(
      f"config.{key}: expected a multiple of the {count} devices of {target.name}, "
      f"got {batch_size}"
    )
  return batch_size // count


def make(
  config: ConfigDict,
  network: Network,
  target: Target,
  examples: tuple[int, int],
  find_largest: bool = False,
) -> Plan:
  """Compiles the steps and reads what they need.

  Args:
    config: The whole config.
    network: Its network, see `stand_in`.
    target: What to compile for.
    examples: A chip's share of the training and of the evaluation batch.
    find_largest: Whether to compile the training step once more, with half or twice
      the examples, to see how memory grows. Otherwise that is taken from one
      compilation, see `fixed_bytes`.
  """
  count, eval_count = examples
  train = programs.train_step(config, network, count)
  evaluate = programs.eval_step(config, network, eval_count)
  compared = (count // 2 or 2) if find_largest else 0
  steps = [train, evaluate]
  if compared:
    steps.append(programs.train_step(config, network, compared))
  with futures.ThreadPoolExecutor(COMPILE_THREADS) as pool:
    compiled = list(pool.map(lambda s: programs.compile_step(s, target), steps))
  other = compiled[2].needed_bytes if compared else fixed_bytes(train, compiled[0])
  sizes = {count: compiled[0].needed_bytes, compared: other}
  return Plan(
    target=target,
    train=_step_plan(train, compiled[0], target, count),
    evaluate=_step_plan(evaluate, compiled[1], target, eval_count),
    largest=largest_batch(sizes, target.memory_bytes),
    compared=compared,
  )


def fixed_bytes(train: Step, program: Program) -> float:
  """What a training step needs whatever the batch is.

  State, body, a gradient of every parameter, and the program's code if it fits.
  """
  trees = (train.state, train.geometry, train.state.params)
  return programs.bytes_of(trees) + (program.memory.code if program.memory else 0.0)


def largest_batch(needed_bytes: dict[int, float], limit: float) -> int:
  """The most examples that fit, by a straight line through two sizes.

  Args:
    needed_bytes: By number of examples, two of them; 0 is not known.
    limit: Bytes that there are; 0 is not known.

  Returns:
    0 if the line cannot be drawn or does not rise.
  """
  (few, less), (many, more) = sorted(needed_bytes.items())
  if not (limit and less and more) or more <= less:
    return 0
  slope = (more - less) / (many - few)
  return max(int(many + (limit - more) / slope), 0)


def _step_plan(step: Step, program: Program, target: Target, examples: int) -> StepPlan:
  arguments = (step.state, step.batch, step.geometry)
  found = products.of_step(step.function, AXIS, *arguments)
  flops = float(sum(product.flops for product in found))
  chip = target.chip
  tile = chip.product_tile if chip else 1
  traffic = hlo.traffic(program.text)
  moved = _moved(program, traffic)
  collectives = hlo.collectives(program.text)
  known = chip is not None and program.memory is not None
  return StepPlan(
    examples=examples,
    program=program,
    flops=flops,
    tiled_flops=float(sum(product.tiled_flops(tile) for product in found)),
    parts=products.by_part(found),
    traffic=traffic,
    collectives=collectives,
    bounds=_bounds(flops, moved, collectives, target) if known else None,
  )


def _moved(program: Program, traffic: Traffic) -> float:
  """The smaller of two counts: the compiler's includes memory on the chip."""
  counts = [n for n in (program.bytes_moved, traffic.padded_bytes) if n > 0]
  return min(counts, default=0.0)


def _bounds(
  flops: float, moved: float, collectives: dict[str, Collectives], target: Target
) -> Bounds:
  chip: Any = target.chip
  sent = sent_bytes(collectives, len(target.devices))
  return Bounds(
    products=flops / chip.flops,
    memory=moved / chip.memory_bandwidth,
    links=sent / chip.link_bandwidth if chip.link_bandwidth else 0.0,
  )


def sent_bytes(collectives: dict[str, Collectives], devices: int) -> float:
  """Bytes that each device must send.

  Of n devices, an all-reduce sends 2 (n - 1) / n of its array, gathering and
  scattering (n - 1) / n of the whole array.
  """
  share_sent = (devices - 1) / devices
  factors = {"all-reduce": 2 * share_sent, "reduce-scatter": devices * share_sent}
  sent = 0.0
  for kind, found in collectives.items():
    sent += found.bytes * factors.get(kind, share_sent)
  return sent
