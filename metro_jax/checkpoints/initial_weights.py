"""What a fresh run's weights are taken from, as its config says."""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from metro_jax import folders
from metro_jax.checkpoints import checkpoint, embedded, runs
from metro_jax.folders import Folder
from metro_jax.models.setup import Network
from metro_jax.weights import blazepose, imagenet, weight_files
from metro_jax.weights.weight_files import Loaded


def expect_there(config: ConfigDict, workdir: Folder) -> None:
  """Fails, before anything else is done, if a fresh run's weights are not there.

  Args:
    config: Of the run.
    workdir: Of the run; one that has checkpoints needs no other weights.

  Raises:
    FileNotFoundError, OSError, ValueError: As `weight_files.locate`.
  """
  checkpoints = folders.as_folder(workdir) / runs.CHECKPOINT_FOLDER
  in_package = config.model.backbone_weights == blazepose.EMBEDDED
  of_backbone = "" if in_package else config.model.backbone_weights
  source = config.train.init_from or of_backbone
  if not source or any(path.name.isdecimal() for path in checkpoints.glob("*")):
    return
  if not runs.is_run(source):
    weight_files.locate(source)


def load(
  config: ConfigDict, network: Network, like: Mapping[str, Any]
) -> Loaded | None:
  """Reads what the config has a fresh run start from, and says so.

  Args:
    config: Of the run; `train.init_from` holds the backbone too.
    network: Of the run.
    like: Its variables, arrays or shapes.

  Returns:
    All variables, or the backbone's alone; None if the run starts from nothing.
  """
  given = _read(config, network, like)
  if given is not None:
    count = len(jax.tree.leaves(given.variables))
    ignored = f"{given.ignored} ignored" if given.ignored else "none ignored"
    print(f"Weights from {given.source}: {count} arrays, {ignored}", flush=True)
  return given


def _read(
  config: ConfigDict, network: Network, like: Mapping[str, Any]
) -> Loaded | None:
  source, of_backbone = config.train.init_from, config.model.backbone_weights
  if not source and not of_backbone:
    return None
  if not source:
    reader = blazepose if config.model.backbone == "blazepose" else imagenet
    return reader.load(of_backbone, like)
  if source == embedded.NAME:
    return Loaded(embedded.load_variables(network, like), 0, source)
  if not runs.is_run(source):
    return weight_files.load_metro(source, like)
  folder = folders.as_folder(source) / runs.CHECKPOINT_FOLDER
  restored = checkpoint.restore_variables(folder, "best", like)
  return Loaded(restored.tree, 0, f"{source}, step {restored.step}")
