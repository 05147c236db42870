"""The steps that training and evaluation run, compiled for a target.

Only shapes go in: no array is made and no device is needed.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from metro_jax.cluster import parallel
from metro_jax.data import pipeline, schema
from metro_jax.data.batch import Batch
from metro_jax.evaluation.eval_step import make_eval_step
from metro_jax.models.setup import Geometry, Network, variable_shapes
from metro_jax.planning.targets import Target
from metro_jax.training import optimizer as optimizers
from metro_jax.training import state
from metro_jax.training import step as steps

Tree = Any  # a pytree of shapes
_NEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_NO_SCRATCH = "ScopedVmemOom"  # an operation needs more scratch memory on the chip
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Step(NamedTuple):
  """One device's step and what it takes, as shapes."""

  function: Callable[..., Tree]
  state: Tree
  batch: Tree
  geometry: Geometry
  donate: bool


class Memory(NamedTuple):
  """Bytes of one device's memory that a program takes.

  Attributes:
    arguments: State, batch and the body's arrays.
    outputs: Results that do not reuse an argument's memory.
    temporaries: What the program needs while it runs.
    code: The program itself.
  """

  arguments: float
  outputs: float
  temporaries: float
  code: float

  @property
  def total(self) -> float:
    """All of it together."""
    return float(sum(self))


class Program(NamedTuple):
  """What the compiler says of a step on one device.

  Attributes:
    memory: What it takes; None if the compiler found that it does not fit.
    needed_bytes: In all, fitting or not; 0 if the compiler does not say.
    flops: Operations, as the compiler counts them; 0 if it does not.
    bytes_moved: To and from memory, as the compiler counts them; 0 if it does not.
    text: The compiled HLO; "" if it does not fit.
    seconds: That tracing and compiling took.
    exact: Whether it is training's own, without the target's options.
  """

  memory: Memory | None
  needed_bytes: float
  flops: float
  bytes_moved: float
  text: str
  seconds: float
  exact: bool = True


def train_step(config: ConfigDict, network: Network, examples: int) -> Step:
  """The training step of one device.

  Args:
    config: The whole config.
    network: Its network.
    examples: A device's share of the batch.
  """
  optimizer, px = optimizers.make_optimizer(config), config.data.image_px
  averaged = config.optimizer.ema_decay > 0
  return Step(
    function=steps.make_train_step(network.model, optimizer, config),
    state=state.shapes(network.model, optimizer, network.template, px, averaged),
    batch=batch_of(config, examples),
    geometry=network.geometry,
    donate=True,
  )


def eval_step(config: ConfigDict, network: Network, examples: int) -> Step:
  """The evaluation step of one device; arguments as for `train_step`."""
  return Step(
    function=make_eval_step(network.model),
    state=variable_shapes(network, config),
    batch=batch_of(config, examples),
    geometry=network.geometry,
    donate=False,
  )


def batch_of(config: ConfigDict, examples: int) -> Batch:
  """The shapes of a batch, as the pipeline makes it."""

  def shape(x: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype)

  return jax.tree.map(shape, blank_batch(config))


def blank_batch(config: ConfigDict) -> Batch:
  """A batch of one black picture without labels, through the pipeline."""
  one = config.copy_and_resolve_references()
  with one.unlocked():
    one.eval.batch_size = 1
  return next(pipeline.eval_batches(_Blank(schema.labels_of(config.body.model)), one))


class _Blank:
  """A split of one black picture."""

  name = "blank/test"

  def __init__(self, labels: schema.LabelSet):
    self._labels = labels

  def __len__(self) -> int:
    return 1

  def __getitem__(self, row: int) -> schema.Example:
    black = np.zeros((16, 16, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", black)[1].tobytes()
    return schema.make_example(self._labels, f"blank/{row}", jpeg, (8, 8), 16)


def compile_step(step: Step, target: Target) -> Program:
  """Compiles a step for all devices of a target.

  Returns:
    What the compiler says; a program that needs more memory than there is comes back
    without `memory`.

  Raises:
    RuntimeError: If the compiler fails for another reason.
  """
  started = time.perf_counter()
  lowered = parallel.lower_step(
    step.function,
    step.geometry,
    step.state,
    step.batch,
    target.devices,
    donate=step.donate,
  )
  try:
    compiled, exact = compiled_with(target.options, lowered)
  except RuntimeError as error:
    needed = out_of_memory(str(error))
    if needed is None:
      raise
    seconds = time.perf_counter() - started
    return Program(None, needed, 0.0, 0.0, "", seconds, exact=not target.options)
  return _described(compiled, time.perf_counter() - started, exact)


def compiled_with(
  options: Mapping[str, str], lowered: jax.stages.Lowered
) -> tuple[jax.stages.Compiled, bool]:
  """Compiles with options, or without where they leave too little scratch memory.

  Returns:
    The program, and whether it is without.
  """
  if options:
    try:
      return lowered.compile(compiler_options=dict(options)), False
    except RuntimeError as error:
      if _NO_SCRATCH not in str(error):
        raise
  return lowered.compile(), True


def out_of_memory(message: str) -> float | None:
  """Bytes that a program needed, from a compiler's refusal.

  Returns:
    None if the message is of another failure, 0 if it does not say how many.
  """
  if "RESOURCE_EXHAUSTED" not in message or _NO_SCRATCH in message:
    return None
  found = _NEEDED.search(message)
  return float(found[1]) * _UNITS[found[2]] if found else 0.0


def bytes_of(tree: Tree) -> float:
  """Of all arrays in a tree of them or of their shapes."""
  return float(
    sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
  )


def memory_of(compiled: jax.stages.Compiled) -> Memory:
  """What a compiled program takes of one device's memory."""
  stats = compiled.memory_analysis()
  return Memory(
    arguments=float(stats.argument_size_in_bytes),
    outputs=max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0.0),
    temporaries=float(stats.temp_size_in_bytes),
    code=float(stats.generated_code_size_in_bytes),
  )


def _described(compiled: jax.stages.Compiled, seconds: float, exact: bool) -> Program:
  memory = memory_of(compiled)
  costs = compiled.cost_analysis() or {}
  if isinstance(costs, list):
    costs = costs[0] if costs else {}
  return Program(
    memory=memory,
    needed_bytes=memory.total,
    flops=_count(costs, "flops"),
    bytes_moved=_count(costs, "bytes accessed"),
    text=compiled.as_text(),
    seconds=seconds,
    exact=exact,
  )


def _count(costs: Mapping[str, float], name: str) -> float:
  """A count; compilers say -1 and worse for what they do not know."""
  return max(float(costs.get(name, 0)), 0.0)
