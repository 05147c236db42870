"""Runs an exported network without metro_jax: `pip install jax flatbuffers`.

Run:    python run.py [--output=out.npz] [crops.npy]
        Crops are RGB, (b, px, px, 3), of the type that model.json names, 0 to 255;
        without a file, one grey crop.
From Python: `predict = run.load(FOLDER)`, then `predict(images)` gives arrays by name.
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def load(folder: str | pathlib.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Reads an export.

  Args:
    folder: Holds network.bin, model.json and, where they are beside, parameters.npz.

  Returns:
    predict(images) -> arrays by name; model.json says what each is.
  """
  folder = pathlib.Path(folder)
  facts = json.loads((folder / "model.json").read_text())
  exported = jax.export.deserialize(bytearray((folder / "network.bin").read_bytes()))
  call = jax.jit(exported.call)
  given: tuple[dict[str, jax.Array], ...] = ()
  if facts["parameters"] == "beside":
    with np.load(folder / "parameters.npz", allow_pickle=False) as stored:
      given = ({name: jax.device_put(stored[name]) for name in stored.files},)

  def predict(images: np.ndarray) -> dict[str, np.ndarray]:
    px, kind = facts["image_px"], np.dtype(facts["image_type"])
    if images.ndim != 4 or images.shape[1:] != (px, px, 3) or images.dtype != kind:
      raise ValueError(
        f"images: expected (b, {px}, {px}, 3) {kind}, got {images.shape} {images.dtype}"
      )
    return jax.device_get(call(*given, images))

  return predict


def main() -> None:
  parser = argparse.ArgumentParser(description="Runs an exported network.")
  parser.add_argument("crops", nargs="?", help="npy file of crops")
  parser.add_argument("--output", help="npz file to write")
  arguments = parser.parse_args()
  folder = pathlib.Path(__file__).parent
  facts = json.loads((folder / "model.json").read_text())
  px = facts["image_px"]
  images = np.full((1, px, px, 3), 128, facts["image_type"])
  if arguments.crops:
    images = np.load(arguments.crops, allow_pickle=False)
  made: dict[str, Any] = load(folder)(images)
  for name, value in made.items():
    print(f"{name} {value.shape}: {facts['outputs'][name]}")
  if arguments.output:
    np.savez(arguments.output, **made)


if __name__ == "__main__":
  main()
