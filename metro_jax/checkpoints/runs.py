"""What a training run leaves in its workdir, read back: config and network."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from metro_jax import config as base
from metro_jax import files, folders
from metro_jax.checkpoints import embedded, origin, patience
from metro_jax.models import setup
from metro_jax.text_files import one_line

CONFIG_FILE = "config.json"
CHECKPOINT_FOLDER = "checkpoints"
# What does not make weights: how they are measured, and where this machine has files.
NOT_TRAINED = (
  "eval.",
  "data.validation",
  "data.test",
  *base.OWN_PATHS,
)
# Settings of older runs that are none any more: they follow from others.
GONE = ("data.prefetch", "loss.root")


class Run(NamedTuple):
  """A trained network with all it needs; arrays are NumPy's."""

  config: ConfigDict  # with the settings that the weights were made with
  network: setup.Network
  variables: dict[str, Any]  # params and batch_stats
  step: int  # updates that made them
  earlier: Sequence[Mapping[str, Any]] = ()  # as of `Checkpoints.save`
  training: origin.Training | None = None  # without overrides


def save_config(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Writes the config of a run where `load_config` finds it."""
  text = config.to_json_best_effort(indent=2) + "\n"
  with files.replacing(workdir / CONFIG_FILE) as partial:
    partial.write_text(text)


def load_config(
  workdir: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> ConfigDict:
  """Reads the config file of a run.

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
  try:
    text = patience.patiently(str(path), path.read_text, folders.MISSING)
  except folders.MISSING as error:
    raise FileNotFoundError(
      f"workdir {workdir}: expected a training run with a {CONFIG_FILE}, found none"
    ) from error
  try:
    stored = flatten(json.loads(text))
  except (json.JSONDecodeError, AttributeError) as error:
    raise ValueError(
      f"{path}: expected a config, {patience.describe(error)}"
    ) from error
  stored = {key: value for key, value in stored.items() if key not in GONE}
  return with_settings(base.get_config(), {**stored, **(overrides or {})}, str(path))


def trained_with(config: ConfigDict, stored: Mapping[str, Any] | None) -> ConfigDict:
  """The config with the settings that a checkpoint's weights were made with.

  Args:
    config: Says what does not make weights: measuring, and where files are.
    stored: The checkpoint's config as plain values; None changes nothing, and what
      only another version knew is left out.

  Returns:
    A locked, validated config.

  Raises:
    ValueError: If a value is of another type.
  """
  flat: dict[str, Any] = flatten(stored or {})
  known = flatten(config.to_dict())
  made = {k: flat[k] for k in known if k in flat and not k.startswith(NOT_TRAINED)}
  return with_settings(config, made, "checkpoint")


def with_settings(
  config: ConfigDict, settings: Mapping[str, Any], where: str
) -> ConfigDict:
  """Copies a config with other values of dotted keys.

  Args:
    config: Stays as it is.
    settings: Values by dotted key; lists become tuples.
    where: They come from, for the error.

  Returns:
    A locked, validated config.

  Raises:
    ValueError: If a key is unknown, or a value is of another type.
  """
  config = config.copy_and_resolve_references().lock()
  try:
    config.update_from_flattened_dict(
      {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    )
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{where}: expected keys of the base config, {one_line(error)}"
    ) from error
  base.validate(config)
  return config


def _folder(workdir: str | os.PathLike[str]) -> folders.Folder:
  """Where a run's files are; `embedded` is the package's own."""
  return embedded.FOLDER if workdir == embedded.NAME else folders.as_folder(workdir)


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
  if workdir == embedded.NAME:
    network, step = setup.build(config), embedded.read_step()
    training = origin.training_of(load_config(workdir), step)
    variables = embedded.load_variables(network)
    return Run(config, network, variables, step, training=training)
  # Orbax takes a second to import, and the package's own network has no use for it.
  from metro_jax.checkpoints import checkpoint

  folder = folders.as_folder(workdir) / CHECKPOINT_FOLDER
  restored = checkpoint.restore_variables(folder, which, averaged=averaged)
  config = trained_with(config, restored.meta["config"])
  training = origin.training_of(config, restored.step)
  config = with_settings(config, overrides or {}, "overrides")
  network = setup.build(config)
  like = setup.variable_shapes(network, config)
  variables = checkpoint.as_like(restored, like, folder)
  earlier = restored.meta.get("earlier", [])
  return Run(config, network, variables, restored.step, earlier, training)


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
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat
