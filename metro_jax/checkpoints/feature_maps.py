"""What a frozen backbone makes of the training crops, computed once and kept.

An encoder then trains at the speed of the encoder alone, and sees every picture in
`data.map_views` views many times. The file is named by all that made it, and a build
goes on after an interruption.
"""

import hashlib
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float16
from ml_collections import ConfigDict

from metro_jax import files
from metro_jax.data import pipeline
from metro_jax.data.pipeline import Source
from metro_jax.models.forward import normalize_images

FOLDER = "maps"
BATCH = 32  # crops at a time
SAVE_EVERY = 50  # batches
SPOT_CHECKS = 16  # rows whose pictures name the dataset

Maps = Float16[np.ndarray, "slots gh gw c"]


def open_maps(
  config: ConfigDict, source: Source, model: nn.Module, variables: dict[str, Any]
) -> Maps:
  """Opens the kept maps of a training split; makes what is missing.

  Args:
    config: Uses `seed`, `data`, `model` and `body.model`.
    source: The training split.
    model: The network; its backbone is what is kept.
    variables: Of the network.

  Returns:
    Memory-mapped, in the order of `pipeline.view_batches`.
  """
  backbone = jax.device_get(variables["params"]["backbone"])
  root = pathlib.Path(config.data.data_dir).expanduser() / FOLDER
  folder = root / _digest(config, source, backbone)
  folder.mkdir(parents=True, exist_ok=True)
  with files.file_lock(folder / "lock", f"computes {folder}"):
    return _open(folder, config, source, model, backbone)


def _digest(config: ConfigDict, source: Source, backbone: Any) -> str:
  """Names everything that the maps depend on."""
  data = config.data.to_dict()
  used = {k: data[k] for k in ("image_px", "crop", "passes", "map_views", "augment")}
  text = json.dumps(
    [source.name, len(source), config.seed, config.model.backbone, used], sort_keys=True
  )
  digest = hashlib.sha256(text.encode())
  for n in range(SPOT_CHECKS):
    digest.update(source[n * len(source) // SPOT_CHECKS]["image"])
  for leaf in jax.tree.leaves(backbone):
    digest.update((np.asarray(leaf) + 0.0).tobytes())  # averaging turns -0 into 0
  return digest.hexdigest()[:16]


def _open(
  folder: pathlib.Path,
  config: ConfigDict,
  source: Source,
  model: nn.Module,
  backbone: Any,
) -> Maps:
  forward = _make_forward(model, backbone)
  px, slots = config.data.image_px, config.data.map_views * len(source)
  like = jax.eval_shape(forward, np.zeros((1, px, px, 3), np.uint8))
  path, progress = folder / "maps.npy", folder / "progress.json"
  done = json.loads(progress.read_text())["batches"] if progress.is_file() else 0
  mode = "r+" if done and path.is_file() else "w+"
  shape = (slots, *like.shape[1:])
  maps = np.lib.format.open_memmap(path, mode, np.float16, shape)
  done = done if mode == "r+" else 0
  total = -(-slots // BATCH)
  batches = pipeline.view_batches(source, config, done, BATCH)
  with tqdm.tqdm(
    total=slots, initial=done * BATCH, unit=" crops", desc="backbone", disable=None
  ) as bar:
    for n, batch in enumerate(batches, done):
      first, count = n * BATCH, len(batch.image)
      images = np.zeros((BATCH, *batch.image.shape[1:]), np.uint8)
      images[:count] = batch.image
      maps[first : first + count] = np.asarray(forward(images))[:count]
      bar.update(count)
      if (n + 1) % SAVE_EVERY == 0 or n + 1 == total:
        maps.flush()
        files.write_json(progress, {"batches": n + 1, "of": total})
  return maps


def _make_forward(model: nn.Module, backbone: Any) -> Any:
  @jax.jit
  def forward(images: Any) -> Any:
    variables = {"params": {"backbone": backbone}}
    pixels = normalize_images(images)
    made = model.apply(variables, pixels, method=lambda m, x: m.backbone(x, False))
    return jnp.asarray(made, jnp.float16)

  return forward
