"""A run's network as ONNX models in a folder, and each read back."""

import pathlib
import shutil
from typing import Any

import numpy as np

from metro_jax.checkpoints import runs
from metro_jax.data import framing
from metro_jax.exporting import card, comparison, run_onnx
from metro_jax.exporting.card import Choice
from metro_jax.exporting.comparison import Sample
from metro_jax.exporting.onnx import model_file, network

MODELS = {
  "model.onnx": "float32",
  "model_fp16.onnx": "float16",
  "model_int8.onnx": "int8",
}
TOLERANCES = {"float32": 1e-5, "float16": 1e-3}  # metres
TOLERANCE = TOLERANCES["float32"]
FACES = "faces.npy"
FILES = (*MODELS, FACES, "run.py", *card.FILES)
ANY_BATCH = (
  "`images` is (b, px, px, 3) of the type that `model.json` names, for any b; "
  "normalisation is inside."
)
TWINS = (
  "`model_fp16.onnx` and `model_int8.onnx` hold the weights in a half and about a "
  "quarter of the bytes; they compute in float32, as fast as `model.onnx`. `faces.npy` "
  "holds the triangles."
)


def file_names(choice: Choice) -> list[str]:
  """What the folder will hold."""
  del choice  # all the same
  return list(FILES)


def write(run: runs.Run, folder: pathlib.Path, choice: Choice) -> float:
  """Writes the three models, what runs them, and the card.

  Args:
    run: The network.
    folder: Where to.
    choice: The type of the pictures.

  Returns:
    The largest difference of the first from the checkpoint, metres.

  Raises:
    ValueError: If the others differ by more than they may.
  """
  run = network.in_single_precision(run)
  wanted = comparison.sample(run, choice.image_type)
  described = network.describe(run, choice.image_type)
  gaps = {
    name: _write_model(folder / name, described, weights, wanted)
    for name, weights in MODELS.items()
  }
  write_faces(run, folder)
  shutil.copyfile(run_onnx.__file__, folder / "run.py")
  more = facts(run, choice) | {"largest_differences_m": gaps}
  card.write(run, folder, choice, more, (ANY_BATCH, TWINS, looks_remark(run)))
  return gaps["model.onnx"]


def write_half(run: runs.Run, path: pathlib.Path, choice: Choice) -> float:
  """Writes the model with half-precision weights alone; returns the difference."""
  run = network.in_single_precision(run)
  wanted = comparison.sample(run, choice.image_type)
  described = network.describe(run, choice.image_type)
  return _write_model(path, described, "float16", wanted)


def write_faces(run: runs.Run, folder: pathlib.Path) -> None:
  """Writes the mesh's triangles."""
  np.save(folder / FACES, np.asarray(run.network.body.faces, np.int32))


def facts(run: runs.Run, choice: Choice) -> dict[str, Any]:
  """What the programs that run the models go by."""
  body = run.network.body
  known: dict[str, Any] = {"image_type": choice.image_type, "looks": _looks(run)}
  if not body.is_hand:
    shoulders, hips = framing.TORSO[:2], framing.TORSO[2:]
    known["framing"] = {
      "margin": framing.MARGIN,
      "least": framing.LEAST,
      "shoulders": [int(n) for n in shoulders],
      "hips": [int(n) for n in hips],
    }
  return known


def looks_remark(run: runs.Run) -> str:
  """Which crop the network wants."""
  if _looks(run) == 1:
    return "A crop is an upright square around the person or hand, a fifth larger."
  return (
    "The network looks twice: at an upright square around the person, then at the "
    "square that `upright` in `run.py` makes of the joints it saw, in which the person "
    "stands upright and large. Its errors are those of the second look."
  )


def _looks(run: runs.Run) -> int:
  return 1 if run.network.body.is_hand else int(run.config.data.passes)


def _write_model(
  path: pathlib.Path, described: network.Described, weights: str, wanted: Sample
) -> float:
  """Writes one model; returns its difference from the checkpoint, metres."""
  model_file.write(model_file.make(*described, weights), path)
  program = run_onnx.load(path.parent, path.name)
  gap = comparison.largest_difference(program, wanted)
  if not gap <= TOLERANCES.get(weights, np.inf):  # the bits of int8 are what they are
    raise ValueError(
      f"{path.name}: expected the checkpoint's outputs within "
      f"{1e3 * TOLERANCES[weights]:g} mm, got a difference of {1e3 * gap:.3g} mm"
    )
  return gap
