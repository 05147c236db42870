"""What a training run leaves in its workdir, read back: config and network."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from metro_jax import config as base
from metro_jax import files
from metro_jax.evaluation import embedded
from metro_jax.models import setup
from metro_jax.training import checkpoint, orbax_folder, state

CONFIG_FILE = "config.json"
CHECKPOINT_FOLDER = "checkpoints"


class Run(NamedTuple):
  """A trained network with all it needs; arrays are NumPy's."""

  config: ConfigDict
  network: setup.Network
  variables: dict[str, Any]  # params and batch_stats
  step: int  # updates that made them


def save_config(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Writes the config of a run where `load_config` finds it."""
  text = config.to_json_best_effort(indent=2) + "\n"
  with files.replacing(workdir / CONFIG_FILE) as partial:
    partial.write_text(text)


def load_config(
  workdir: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> ConfigDict:
  """Reads the config that a run was started with.

  Args:
    workdir: Of the run, also in a bucket.
    overrides: Dotted keys, without "config.", to values that replace the run's.

  Returns:
    A locked, validated config. Keys that the run did not know have their defaults.

  Raises:
    FileNotFoundError: If there is no run.
    ValueError: If the file is damaged, or a key is unknown or of another type.
  """
  path = _folder(workdir) / CONFIG_FILE
  if not path.is_file():
    raise FileNotFoundError(
      f"workdir {workdir}: expected a training run with a {CONFIG_FILE}, found none"
    )
  config = base.get_config()
  try:
    stored = flatten(json.loads(path.read_text()))
    for key, value in {**stored, **(overrides or {})}.items():
      _set(config, key, value)
  except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
    reason = " ".join(str(error).split())
    raise ValueError(f"{path}: expected keys of the base config, {reason}") from error
  base.validate(config)
  return config


def _folder(workdir: str | os.PathLike[str]) -> orbax_folder.Folder:
  """Where a run's files are; `embedded` is the package's own."""
  return (
    embedded.FOLDER if workdir == embedded.NAME else orbax_folder.as_folder(workdir)
  )


def is_run(source: str | os.PathLike[str]) -> bool:
  """Whether weights come from a workdir, or the package, and not from a file."""
  return _folder(source).is_dir()


def load(
  workdir: str | os.PathLike[str],
  which: str | int = "best",
  overrides: Mapping[str, Any] | None = None,
  averaged: bool = True,
) -> Run:
  """Reads a run's network.

  Args:
    workdir: Of the run, also in a bucket; or "embedded", the package's own.
    which: The checkpoint: "best" by PA-MPJPE, "latest", or a step.
    overrides: As for `load_config`.
    averaged: Whether averaged parameters, where the run kept them, are taken for
      the last ones.

  Returns:
    The network and its parameters on the host.

  Raises:
    FileNotFoundError: If there is no run or no such checkpoint.
    ValueError: If the checkpoint is damaged or of another architecture.
  """
  config = load_config(workdir, overrides)
  network = setup.build(config)
  if workdir == embedded.NAME:
    step, variables = embedded.read_step(), embedded.load_variables(network)
    return Run(config, network, variables, step)
  like = state.variable_shapes(network.model, network.template, config.data.image_px)
  folder = orbax_folder.as_folder(workdir) / CHECKPOINT_FOLDER
  restored = checkpoint.restore_variables(folder, which, like, averaged)
  return Run(config, network, restored.tree, restored.step)


def parse_checkpoint(text: str) -> str | int:
  """Reads a --checkpoint flag.

  Raises:
    ValueError: If it is neither "best" nor "latest" nor a step.
  """
  if text in ("best", "latest"):
    return text
  if text.isdecimal():
    return int(text)
  raise ValueError(f"--checkpoint: expected best, latest or a step, got {text!r}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested settings by dotted key, as overrides name them."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat


def _set(config: ConfigDict, key: str, value: Any) -> None:
  """Sets a dotted key; JSON's lists become tuples again."""
  *sections, name = key.split(".")
  for section in sections:
    config = config[section]
  config[name] = tuple(value) if isinstance(value, list) else value
