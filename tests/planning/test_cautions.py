"""What a reader is warned of follows from the config and the chip."""

import importlib.util
import pathlib

from metro_jax import config as base
from metro_jax.planning import cautions
from metro_jax.planning.hlo import Traffic

spec = importlib.util.spec_from_file_location(
  "toy_plans", pathlib.Path(__file__).parent / "test_plan.py"
)
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)


def padding(config, **changes):
  return [
    note
    for note in cautions.of(toys.toy_plan(**changes), config)
    if note.startswith("padding")
  ]


def test_the_papers_tokens_leave_an_eighth_of_the_lanes_empty():
  notes = padding(base.get_config())
  # 14 joints and 431 vertices; 4 x 128 lanes; 67 of 512 are empty.
  assert any("445 tokens take 512 lanes" in note and "13%" in note for note in notes)


def test_tokens_that_fill_their_lanes_are_no_waste():
  config = base.get_config()
  config.body.levels = (6890, 1723, 498)  # with 14 joints 512
  assert not any("tokens" in note for note in padding(config))


def test_narrow_heads_idle_the_matrix_unit():
  notes = padding(base.get_config())  # heads of 256, 64 and 32
  assert not any("block 0" in note for note in notes)
  assert any("block 1 are 64 wide" in note and "50%" in note for note in notes)
  assert any("block 2 are 32 wide" in note and "75%" in note for note in notes)


def test_padded_products_and_bytes_are_measured_on_the_program():
  changes = {"tiled_flops": 12e9, "traffic": Traffic(3e6, 4e6)}
  notes = padding(base.get_config(), **changes)
  assert any("1.50 times the products' operations" in note for note in notes)
  assert any("25% of the bytes moved" in note for note in notes)


def test_hosts_that_cannot_keep_up_are_named():
  config = base.get_config()
  # 4 chips, 8 images in 8 ms: 4,000 images/s, 2,000 for each of two hosts.
  notes = cautions.of(toys.toy_plan(flops=0.0), config, images_per_core=200.0)
  assert any("each must read 2,000 images/s" in n and "10 cores" in n for n in notes)
  assert any("more than the 8 threads of a host" in note for note in notes)
  config.data.read_threads = 16
  few = cautions.of(toys.toy_plan(flops=0.0), config, images_per_core=400.0)
  assert not any(note.startswith("hosts") for note in few)


def test_little_memory_left_is_said():
  plan = toys.toy_plan(toys.toy_program(15.5 * 2**30))
  assert any(
    note.startswith("memory: 97%") for note in cautions.of(plan, base.get_config())
  )
