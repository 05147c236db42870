"""Compiles a config for devices that need not be here, and says what to expect.

Run:    python -m metro_jax.dryrun --config=configs/h36m.py --topologies=v5e:4x4,v6e:4x4
          [--batch_per_chip=32] [--exact] [--json=FILE]
        --topologies=local  the devices of this machine
Result: Whether it fits, memory, operations, bytes, exchanges, and bounds on speed.
        TPU slices need libtpu (pip install 'metro_jax[tpu]'), no TPU and no data.
"""

import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line, files, outputs
from metro_jax import config as base
from metro_jax.data import datasets
from metro_jax.planning import cautions, plan, stand_in, table, targets

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the command's flags."""
  config_flags.DEFINE_config_file("config", None, "What to compile.", lock_config=True)
  flags.mark_flag_as_required("config")
  text = (
    'Where to: slices such as v5e:4x4, v5p:2x2x4, v6e:16x16; "local": what is here.'
  )
  flags.DEFINE_list("topologies", [targets.LOCAL], text)
  flags.DEFINE_alias("topology", "topologies")
  text = "Images a device, instead of the config's batch sizes over all devices."
  flags.DEFINE_integer("batch_per_chip", 0, text, lower_bound=0)
  text = "Images in an epoch; 0 asks the datasets that are here."
  flags.DEFINE_integer("epoch_examples", 0, text, lower_bound=0)
  text = "Whether to compile once more to find the largest batch more precisely."
  flags.DEFINE_bool("largest", False, text)
  text = "Whether to compile for slices just as training does, in twice the time."
  flags.DEFINE_bool("exact", False, text)
  text = "What a core decodes and augments a second; metro_jax.benchmark measures it."
  flags.DEFINE_float("images_per_core", 0, text, lower_bound=0)
  flags.DEFINE_string("json", "", "Also writes everything to this file.")


def epoch_examples(config: ConfigDict) -> int:
  """Images in an epoch of the config's training data; 0 if that is not here."""
  count = 0
  for dataset in config.data.train:
    name, split = dataset.split("/")
    if name == datasets.SYNTHETIC:
      count += config.data.synthetic[f"{split}_examples"]
      continue
    try:
      count += len(datasets.open_split(config, dataset))
    except FileNotFoundError:
      return 0
  return count


def dryrun(
  config: ConfigDict,
  names: list[str],
  batch_per_chip: int = 0,
  find_largest: bool = False,
  exact: bool = False,
) -> list[plan.Plan]:
  """Compiles for every target, one after another.

  Args:
    config: The whole config.
    names: Of the topologies.
    batch_per_chip: Images a device; 0 takes the config's batch sizes.
    find_largest: Whether to compile once more for the largest batch, see `plan.make`.
    exact: Whether to compile just as training does, see `targets.open_target`.

  Raises:
    ValueError: If the config or a topology is wrong, or a batch does not divide.
    OSError: If libtpu is needed and not there.
  """
  base.validate(config)
  targets.prepare(names)
  opened = [targets.open_target(name, exact) for name in names]
  shares = [
    (batch_per_chip, batch_per_chip)
    if batch_per_chip
    else (
      plan.share("train.batch_size", config.train.batch_size, target),
      plan.share("eval.batch_size", config.eval.batch_size, target),
    )
    for target in opened
  ]
  network, note = stand_in.build(config)
  if note:
    print(note, flush=True)
  plans = []
  for target, examples in zip(opened, shares, strict=True):
    print(f"Compiling for {target.name} ...", file=sys.stderr, flush=True)
    plans.append(plan.make(config, network, target, examples, find_largest))
  return plans


def main(arguments: list[str]) -> int:
  command_line.expect_no_arguments(arguments)
  if FLAGS.json:
    outputs.expect_free(files.expand_home(FLAGS.json), "dryrun")
  config = FLAGS.config
  plans = dryrun(
    config, FLAGS.topologies, FLAGS.batch_per_chip, FLAGS.largest, FLAGS.exact
  )
  examples = FLAGS.epoch_examples or epoch_examples(config)
  found = []
  for one in plans:
    notes = cautions.of(one, config, FLAGS.images_per_core)
    print(table.text(one, examples, notes) + "\n")
    found.append(table.values(one, examples, notes))
  print(table.rows(plans, examples))
  if FLAGS.json:
    with outputs.replacing(files.expand_home(FLAGS.json), "dryrun") as partial:
      files.write_json(partial, found)
  return 0 if all(one.fits for one in plans) else 2


if __name__ == "__main__":
  define_flags()
  command_line.run("dryrun", main)
