"""Networks from wherever they are kept: runs, the package, exports, METRO's files."""

import importlib.util
import json
import os
import pathlib
from typing import TypeAlias

from ml_collections import ConfigDict

from metro_jax import config as base
from metro_jax.checkpoints import manifest, runs
from metro_jax.models import setup
from metro_jax.weights import weight_files

MODEL_FILE = "model.json"  # of an exported folder
PARAMETERS = ("parameters.safetensors", "parameters.npz")
METRO_FILE = "metro_state_dict.bin"

Source: TypeAlias = str | os.PathLike[str]
Config: TypeAlias = ConfigDict | str | os.PathLike[str]


def load_run(
  source: Source, config: Config | None = None, checkpoint: str | int = "best"
) -> runs.Run:
  """Reads a network; see `metro_jax.load`, whose errors are these."""
  if runs.is_run(source) and not (pathlib.Path(source) / MODEL_FILE).exists():
    if config is not None:
      raise ValueError(f"config: expected none with a run, {source} has its own")
    return runs.load(source, checkpoint)
  if os.path.isdir(source):
    return _of_export(pathlib.Path(source))
  if config is None:
    raise FileNotFoundError(
      f"{source}: expected embedded, the workdir of a run or an exported folder, or "
      "weights together with a config; found no such folder and no config"
    )
  return _of_weights(source, _read_config(config))


def _of_export(folder: pathlib.Path) -> runs.Run:
  facts = json.loads((folder / MODEL_FILE).read_text())
  config = runs.with_settings(
    base.get_config(), runs.flatten(facts["config"]), str(folder / MODEL_FILE)
  )
  if (folder / METRO_FILE).exists():
    return _of_weights(folder / METRO_FILE, config)._replace(step=facts["step"])
  path = next((folder / n for n in PARAMETERS if (folder / n).exists()), None)
  if path is None:
    raise FileNotFoundError(
      f"{folder}: expected one of {', '.join((*PARAMETERS, METRO_FILE))}, found none; "
      "a program with its parameters inside is run by its run.py"
    )
  network = setup.build(config)
  like = setup.variable_shapes(network, config)
  variables = manifest.fit(like, weight_files.read(path), str(path))
  return runs.Run(config, network, variables, facts["step"])


def _of_weights(source: Source, config: ConfigDict) -> runs.Run:
  base.validate(config)
  weight_files.locate(source)
  network = setup.build(config)
  like = setup.variable_shapes(network, config)
  variables = weight_files.load_metro(source, like).variables
  return runs.Run(config, network, variables, 0)


def _read_config(config: Config) -> ConfigDict:
  """Reads a config file, "FILE.py" or "FILE.py:VARIANT"."""
  if isinstance(config, ConfigDict):
    return config
  name, _, variant = os.fspath(config).partition(".py:")
  path = pathlib.Path(name if name.endswith(".py") else f"{name}.py").expanduser()
  if not path.is_file():
    raise FileNotFoundError(f"config {config}: expected a config file, found none")
  spec = importlib.util.spec_from_file_location("metro_jax_config", path)
  if spec is None or spec.loader is None:
    raise ValueError(f"config {config}: expected a Python file")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  made: ConfigDict = module.get_config(*filter(None, [variant]))
  return made
