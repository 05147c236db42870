"""METRO's weights to a run that the other commands read, and any run to METRO's.

Run:    python -m metro_jax.convert --config=CONFIG --input=FILE --output=WORKDIR
        python -m metro_jax.convert --workdir=RUN --output=FILE.safetensors|.bin|.npz
          [--checkpoint=best|latest|STEP]
Result: WORKDIR with a config and a checkpoint; or a state dict under METRO's keys, in
        which what METRO stores and never uses is zeros. There and back is bit-exact.

Files that end in .bin, .pth or .pt are PyTorch's, of any version; reading and writing
them does not need PyTorch.
"""

import os
import pathlib

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line, outputs
from metro_jax import config as base
from metro_jax.checkpoints import bucket, orbax_folder, runs
from metro_jax.checkpoints.checkpoint import Checkpoints
from metro_jax.checkpoints.run_lock import RunLock
from metro_jax.models import setup
from metro_jax.weights import torch_metro, weight_files
from metro_jax.weights.weight_files import Loaded

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the command's flags."""
  config_flags.DEFINE_config_file(
    "config", None, "The network that --input has weights for.", lock_config=True
  )
  flags.DEFINE_string("input", None, "METRO's state dict.")
  flags.DEFINE_string("workdir", None, "Folder of the run to convert.")
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  flags.DEFINE_string("output", None, "Workdir or file to make.", required=True)


def to_run(config: ConfigDict, source: str, workdir: str | os.PathLike[str]) -> Loaded:
  """Makes a run, at step 0, of a state dict.

  Args:
    config: The network's.
    source: A file, or a Hugging Face repository, as for `weight_files.locate`.
    workdir: Made, also in a bucket; must not hold a run.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the config is wrong, the file is refused or does not fit, or the
      workdir is taken.
    OSError: If a repository cannot be reached or the disk is full.
  """
  base.validate(config)
  config = config.copy_and_resolve_references()
  config.train.init_from = source  # tables say whose weights these are
  workdir = orbax_folder.as_folder(workdir)
  checkpoints_folder = workdir / runs.CHECKPOINT_FOLDER
  if (workdir / runs.CONFIG_FILE).exists() or checkpoints_folder.exists():
    raise ValueError(f"--output: expected a folder without a run, got {workdir}")
  weight_files.locate(source)
  network = setup.build(config)
  like = setup.variable_shapes(network, config)
  loaded = weight_files.load_metro(source, like)
  with RunLock(workdir), bucket.RunFolder(workdir) as folder:
    with Checkpoints(checkpoints_folder) as checkpoints:
      checkpoints.save(loaded.variables, 0, None, config=config.to_dict())
    runs.save_config(folder.local, config)
  return loaded


def to_file(
  workdir: str | os.PathLike[str], output: pathlib.Path, which: str | int = "best"
) -> int:
  """Writes a run's network as a state dict under METRO's keys.

  Args:
    workdir: Of the run, also in a bucket.
    output: Its ending says the kind, as for `weight_files.write`.
    which: The checkpoint: "best" by PA-MPJPE, "latest" or a step.

  Returns:
    The step of the checkpoint.

  Raises:
    FileNotFoundError: If there is no run or no such checkpoint.
    FileExistsError: If the output is a file that this command did not write.
    ValueError: If the checkpoint is damaged or the ending is another.
  """
  weight_files.expect_writable(output)
  outputs.expect_free(output, "convert")
  run = runs.load(workdir, which)
  with outputs.replacing(output, "convert") as partial:
    weight_files.write(partial, torch_metro.to_state_dict(run.variables))
  return run.step


def main(arguments: list[str]) -> None:
  command_line.expect_no_arguments(arguments)
  ways = bool(FLAGS.config and FLAGS.input), bool(FLAGS.workdir)
  if ways.count(True) != 1 or (FLAGS.workdir and (FLAGS.config or FLAGS.input)):
    raise ValueError("expected either --config and --input, or --workdir")
  if FLAGS.workdir:
    if orbax_folder.is_address(FLAGS.output):
      raise ValueError(f"--output: expected a file here, got {FLAGS.output}")
    bucket.expect_usable(FLAGS.workdir, writes=False)
    which = runs.parse_checkpoint(FLAGS.checkpoint)
    step = to_file(FLAGS.workdir, pathlib.Path(FLAGS.output).expanduser(), which)
    print(f"Written to {FLAGS.output}: the network of step {step}")
    return
  bucket.expect_usable(FLAGS.output)
  loaded = to_run(FLAGS.config, FLAGS.input, FLAGS.output)
  count = len(jax.tree.leaves(loaded.variables))
  print(f"Weights from {loaded.source}: {count} arrays, {loaded.ignored} ignored")
  print(f"Written to {FLAGS.output}")


if __name__ == "__main__":
  define_flags()
  command_line.run("convert", main)
