"""Bounds, shares and the largest batch, by hand; a compiled step, by its arrays."""

import types

import jax
import jax.numpy as jnp
import pytest

from metro_jax.models.setup import Geometry
from metro_jax.planning import plan, programs, targets
from metro_jax.planning.chips import Chip
from metro_jax.planning.hlo import Collectives, Traffic
from metro_jax.training import state

CHIP = Chip("toy", 1e12, 16e9, 1e9, 1e8, 128, 8, "nowhere")
GIB = 2.0**30
NO_SCRATCH = (
  "RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom: Ran out of memory in memory "
  "space vmem while allocating on stack"
)
NO_BODY = Geometry(None, None, ())


def toy_target(devices: int = 4, memory_bytes: float = 16 * GIB) -> targets.Target:
  device = types.SimpleNamespace(platform="tpu", device_kind="toy")
  return targets.Target("toy:2x2", (device,) * devices, 2, CHIP, memory_bytes)


def toy_program(needed: float = GIB, fits: bool = True) -> programs.Program:
  memory = programs.Memory(needed, 0.0, 0.0, 0.0) if fits else None
  return programs.Program(memory, needed, 0.0, 0.0, "", 1.0)


def toy_plan(program=None, target=None, bounds=None, **changes) -> plan.Plan:
  step = plan.StepPlan(
    examples=8,
    program=program or toy_program(),
    flops=8e9,
    tiled_flops=8e9,
    parts={},
    traffic=Traffic(1e6, 1e6),
    collectives={},
    bounds=bounds or plan.Bounds(0.008, 0.001, 0.002),
  )
  step = step._replace(**changes)
  return plan.Plan(target or toy_target(), step, step, largest=0, compared=0)


def test_the_largest_batch_is_where_the_line_meets_the_limit():
  # 2 GiB of state and 0.25 GiB an example: 16 GiB hold 56.
  assert plan.largest_batch({32: 10 * GIB, 16: 6 * GIB}, 16 * GIB) == 56


def test_the_largest_batch_may_be_smaller_than_what_was_compiled():
  assert plan.largest_batch({64: 18 * GIB, 32: 10 * GIB}, 16 * GIB) == 56


@pytest.mark.parametrize(
  ("needed", "limit"),
  [({1: 0.0, 2: 5.0}, 9.0), ({1: 5.0, 2: 5.0}, 9.0), ({1: 4.0, 2: 5.0}, 0.0)],
)
def test_without_a_rising_line_there_is_no_largest_batch(needed, limit):
  assert plan.largest_batch(needed, limit) == 0


def test_a_ring_sends_an_array_almost_twice_to_sum_it_and_once_to_gather_it():
  found = {"all-reduce": Collectives(3, 100.0), "all-gather": Collectives(1, 60.0)}
  assert plan.sent_bytes(found, 4) == 2 * 100 * 3 / 4 + 60 * 3 / 4
  # A reduce-scatter's result is a part: 25 bytes of 100 on each of four.
  assert plan.sent_bytes({"reduce-scatter": Collectives(1, 25.0)}, 4) == 75
  assert plan.sent_bytes(found, 1) == 0


def test_speed_is_bound_by_what_takes_longest():
  bounds = plan.Bounds(products=0.008, memory=0.010, links=0.002)
  assert (bounds.seconds, bounds.limit) == (0.010, "memory")
  assert toy_plan(bounds=bounds).images_per_second == pytest.approx(4 * 8 / 0.010)


def test_a_plan_fits_if_its_steps_do():
  assert toy_plan().fits
  assert not toy_plan(toy_program(17 * GIB)).fits
  assert not toy_plan(toy_program(17 * GIB, fits=False)).fits


def test_a_batch_that_does_not_divide_is_refused():
  assert plan.share("train.batch_size", 32, toy_target()) == 8
  with pytest.raises(
    ValueError,
    match=r"config.train.batch_size: expected a multiple of the 4 devices of toy:2x2, "
    "got 30",
  ):
    plan.share("train.batch_size", 30, toy_target())


def test_state_body_gradients_and_code_do_not_grow_with_the_batch():
  def floats(count):
    return jax.ShapeDtypeStruct((count,), jnp.float32)

  held = state.TrainState(floats(100), {}, [floats(200)], floats(1), floats(2))
  step = programs.Step(None, held, floats(9), NO_BODY, donate=True)
  memory = programs.Memory(arguments=4.0 * 312, outputs=0, temporaries=900, code=50)
  fits = programs.Program(memory, memory.total, 0, 0, "", 1)
  assert plan.fixed_bytes(step, fits) == 4 * (303 + 100) + 50
  assert plan.fixed_bytes(step, fits._replace(memory=None)) == 4 * (303 + 100)


def test_a_refusal_for_want_of_memory_says_how_much_was_needed():
  message = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
    "space hbm. Used 18.25G of 15.75G hbm. Exceeded hbm capacity by 2.50G."
  )
  assert programs.out_of_memory(message) == 18.25 * GIB
  assert programs.out_of_memory("RESOURCE_EXHAUSTED: no details") == 0
  assert programs.out_of_memory("INTERNAL: something else") is None
  assert programs.out_of_memory(NO_SCRATCH) is None


class Lowered(jax.stages.Lowered):
  """Compiles without options only."""

  def __init__(self, message: str):
    self.message = message
    self.whole = jax.jit(lambda x: 2 * x).lower(1.0)

  def compile(self, compiler_options=None):
    if compiler_options:
      raise RuntimeError(self.message)
    return self.whole.compile()


def test_an_operation_that_needs_more_scratch_memory_gets_the_compilers_own():
  compiled, exact = programs.compiled_with({"limit": "5"}, Lowered(NO_SCRATCH))
  assert exact and compiled(3.0) == 6.0
  with pytest.raises(RuntimeError, match="space hbm"):
    programs.compiled_with({"limit": "5"}, Lowered("RESOURCE_EXHAUSTED: space hbm"))


def test_a_program_that_does_not_fit_says_whether_it_was_trainings_own(monkeypatch):
  lowered = Lowered("RESOURCE_EXHAUSTED: Used 18.25G of 15.75G hbm")
  monkeypatch.setattr(programs.parallel, "lower_step", lambda *_, **__: lowered)
  step = programs.Step(lambda *_: None, {}, {}, NO_BODY, donate=True)
  program = programs.compile_step(step, toy_target()._replace(options={"limit": "5"}))
  assert (program.memory, program.needed_bytes) == (None, 18.25 * GIB)
  assert not program.exact


def test_options_reach_the_compiler_and_are_told():
  lowered = jax.jit(lambda x: 2 * x).lower(1.0)
  option = {"xla_backend_optimization_level": "0"}
  compiled, exact = programs.compiled_with(option, lowered)
  assert (compiled(3.0), exact) == (6.0, False)
  assert programs.compiled_with({}, lowered)[1]
  with pytest.raises(RuntimeError, match="no_such_option"):
    programs.compiled_with({"no_such_option": "1"}, lowered)


@pytest.mark.parametrize("mapping", ("pmap", "shard_map"))
def test_a_compiled_steps_memory_is_that_of_its_arrays(mapping):
  def step(state, batch, geometry):
    del geometry
    return state - 0.1 * (batch @ state).sum(0, keepdims=True), {"loss": state.sum()}

  weights = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  batch = jax.ShapeDtypeStruct((32, 64), jnp.float32)
  target = targets.Target("local", (jax.devices()[0],), 1, CHIP, GIB)
  taken = programs.Step(step, weights, batch, NO_BODY, True, mapping)
  program = programs.compile_step(taken, target)
  assert program.memory.arguments == 4 * (64 * 64 + 32 * 64)
  assert program.memory.outputs < 4 * 64 * 64  # the new state takes the old one's place
  made = plan._step_plan(taken, program, target, 32)
  assert made.flops == 2 * 32 * 64 * 64
  assert made.bounds.products == made.flops / CHIP.flops
  kept = programs.compile_step(taken._replace(donate=False), target)
  assert kept.memory.outputs >= 4 * 64 * 64
