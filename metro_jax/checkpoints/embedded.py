"""The network that comes with the package, as a run: `embedded` in a workdir's place.

  python -m metro_jax.checkpoints.embedded --workdir=RUN

writes a run's best network into the package. Its arrays are float16; what is in the
package already, the mesh's own geometry and BlazePose's backbone where nothing has
trained them, is left out and put back.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from metro_jax import config as base
from metro_jax.models.blazepose import BlazePose
from metro_jax.models.setup import Network
from metro_jax.weights import blazepose

NAME = "embedded"
FOLDER = pathlib.Path(__file__).parent / "assets" / NAME
WEIGHTS = FOLDER / "model.safetensors"
_KERNEL = "params.upsampling{}.kernel"

Flat = dict[str, np.ndarray]


def load_variables(
  network: Network, like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Reads the network's variables; float32, on the host.

  Args:
    network: Built from the asset's config, or one that is to start from it.
    like: The variables that are wanted, arrays or shapes; None takes what is there.

  Raises:
    ValueError: If the asset is of another network than `like`.
  """
  stored = safetensors.numpy.load_file(WEIGHTS)
  flat = {name: array.astype(np.float32) for name, array in stored.items()}
  flat = {**_known(network), **flat}
  if like is not None:
    wanted = flax.traverse_util.flatten_dict({"params": like["params"]}, sep=".")
    names = sorted(wanted.keys() | flat.keys())
    shapes = [{k: np.shape(v) for k, v in tree.items()} for tree in (wanted, flat)]
    other = [n for n in names if shapes[0].get(n) != shapes[1].get(n)]
    if other:
      raise ValueError(
        f"{NAME}: expected a config of the same network (configs/embedded.py), got one "
        f"in which {len(other)} of {len(names)} arrays differ, {other[0]} first"
      )
  return {"batch_stats": {}, **flax.traverse_util.unflatten_dict(flat, sep=".")}


def read_step() -> int:
  """Updates that made the weights."""
  with safetensors.safe_open(WEIGHTS, "numpy") as file:
    return int(file.metadata()["step"])


def _known(network: Network) -> Flat:
  """Upsampling layers and backbone as they are where nothing has trained them."""
  made: Flat = {}
  if isinstance(network.model.backbone, BlazePose):
    stored = safetensors.numpy.load_file(blazepose.ASSET)
    made = {f"params.backbone.{k}": v.astype(np.float32) for k, v in stored.items()}
  for n, init in enumerate(network.model.upsampling_inits):
    counts = network.levels.counts[::-1]
    shape = (counts[n], counts[n + 1])
    made[_KERNEL.format(n)] = np.asarray(init(jax.random.key(0), shape, jnp.float32))
    made[f"params.upsampling{n}.bias"] = np.zeros(shape[1], np.float32)
  return made


def write(run: Any, folder: pathlib.Path = FOLDER) -> int:
  """Writes a run's network and config as the asset; returns its bytes."""
  folder.mkdir(parents=True, exist_ok=True)
  flat = flax.traverse_util.flatten_dict({"params": run.variables["params"]}, sep=".")
  known = _known(run.network)
  kept = {
    name: np.asarray(array, np.float16)
    for name, array in flat.items()
    if name not in known or not np.array_equal(array, known[name])
  }
  path = folder / WEIGHTS.name
  safetensors.numpy.save_file(kept, path, {"step": str(run.step)})
  config = run.config.copy_and_resolve_references()
  own = base.get_config()  # folders that are not only the maker's
  config.data.data_dir, config.train.init_from = own.data.data_dir, own.train.init_from
  (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  return path.stat().st_size


def main() -> None:
  """Writes the asset."""
  from metro_jax.checkpoints import runs  # which reads it

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--checkpoint", default="best")
  options = parser.parse_args()
  run = runs.load(options.workdir, runs.parse_checkpoint(options.checkpoint))
  print(f"{WEIGHTS}: {write(run):,} bytes, step {run.step}")


if __name__ == "__main__":
  main()
