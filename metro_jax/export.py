"""Hands a trained network on: as a program, or as its weights.

Run:    python -m metro_jax.export --workdir=RUN
          --format=stablehlo|onnx|web|safetensors|npz|torch
          [--output=FOLDER] [--checkpoint=best|latest|STEP] [--weights=averaged|last]
          [--parameters=beside|inside] [--image_type=uint8|float32]
          [--runtime=FOLDER]
Result: In FOLDER (RUN/export/FORMAT by default), with a model card in README.md and
          the same facts in model.json:
          stablehlo    network.bin, parameters.npz (beside) and run.py, which needs jax
                       and flatbuffers; any batch size, on CPU, CUDA and TPU
          onnx         model.onnx, model_fp16.onnx, model_int8.onnx (the same with
                       smaller weights), faces.npy and run.py, which needs numpy,
                       opencv and onnxruntime; any batch size; needs metro_jax[onnx]
          web          a page that runs the network in the browser, and serve.py;
                       FOLDER is where `npm install onnxruntime-web` was run
          safetensors  parameters.safetensors, keys as our variables' paths
          npz          parameters.npz, the same
          torch        metro_state_dict.bin, the original's keys and file format
        Each is read back and compared with the checkpoint before it is called done.
        RUN and FOLDER may be gs:// addresses.
"""

import json
import os
import pathlib
from types import ModuleType

import numpy as np
import safetensors.numpy
from absl import flags

from metro_jax import command_line, files, folders, outputs
from metro_jax.checkpoints import bucket, patience, runs
from metro_jax.evaluation import assessment, metrics
from metro_jax.exporting import card, stablehlo
from metro_jax.exporting.card import Choice
from metro_jax.exporting.stablehlo import Flat, flatten
from metro_jax.outputs import Outputs
from metro_jax.weights import torch_metro, weight_files

WEIGHT_FILES = {
  "safetensors": "parameters.safetensors",
  "npz": "parameters.npz",
  "torch": "metro_state_dict.bin",
}
FORMATS = ("stablehlo", "onnx", "web", *WEIGHT_FILES)
WEIGHTS = ("averaged", "last")
PARAMETERS = ("beside", "inside")
IMAGE_TYPES = ("uint8", "float32")
FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
  flags.DEFINE_enum("format", FORMATS[0], FORMATS, "What to write.")
  flags.DEFINE_string("output", None, "Folder; WORKDIR/export/FORMAT by default.")
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  text = "Averaged parameters, where the run kept them, or the last ones."
  flags.DEFINE_enum("weights", WEIGHTS[0], WEIGHTS, text)
  flags.DEFINE_enum("parameters", "beside", PARAMETERS, "Of stablehlo: where they are.")
  flags.DEFINE_enum("image_type", "uint8", IMAGE_TYPES, "Of programs' pictures.")
  text = "Of web: the folder in which `npm install onnxruntime-web` was run."
  flags.DEFINE_string("runtime", "", text)


def export(run: runs.Run, folder: pathlib.Path, choice: Choice) -> float:
  """Writes an export, reads it back and compares; only then is it in the folder.

  Args:
    run: The network and its parameters.
    folder: Made if it does not exist.
    choice: What to write.

  Returns:
    The largest difference from the checkpoint: of outputs, metres, for programs; of
    parameters otherwise.

  Raises:
    ValueError: If what was read back differs by more than it may.
    FileExistsError: If a file would take the place of one that export did not write.
  """
  with Outputs(folder, "export").adding() as made:
    if choice.form in WEIGHT_FILES:
      difference, allowed = _export_weights(run, made, choice), 0.0
    else:
      program = _program_of(choice)
      difference, allowed = program.write(run, made, choice), program.TOLERANCE
    if not difference <= allowed:
      raise ValueError(
        f"{folder}: expected the checkpoint back within {allowed:g}, got a difference "
        f"of {difference:g}"
      )
  return difference


def file_names(choice: Choice) -> list[str]:
  """What an export's folder will hold.

  Raises:
    ValueError: If something is missing that the format needs.
  """
  if choice.form in WEIGHT_FILES:
    return [WEIGHT_FILES[choice.form], *card.FILES]
  return _program_of(choice).file_names(choice)


def _program_of(choice: Choice) -> ModuleType:
  """The module that writes a format; only ONNX's needs ONNX's packages."""
  if choice.form == "stablehlo":
    return stablehlo
  try:
    from metro_jax.exporting.onnx import models
    from metro_jax.exporting.web import folder
  except ModuleNotFoundError as error:
    raise ValueError(
      f"--format={choice.form}: expected the packages onnx and onnxruntime, found no "
      f"{error.name}; pip install 'metro_jax[onnx]'"
    ) from error
  return models if choice.form == "onnx" else folder


def _export_weights(run: runs.Run, folder: pathlib.Path, choice: Choice) -> float:
  flat = flatten(run.variables)
  path = folder / WEIGHT_FILES[choice.form]
  if choice.form == "torch":
    back = _export_torch(run, path)
  elif choice.form == "safetensors":
    with files.replacing(path) as partial:
      safetensors.numpy.save_file(flat, partial, card.as_metadata(run, choice))
    back = safetensors.numpy.load_file(path)
  else:
    weight_files.write(path, flat)
    with np.load(path, allow_pickle=False) as stored:
      back = {name: stored[name] for name in stored.files}
  card.write(run, folder, choice)
  if back.keys() != flat.keys():
    raise ValueError(f"{folder}: expected {len(flat)} arrays back, got {len(back)}")
  gaps = [np.abs(back[name] - value).max() for name, value in flat.items()]
  return float(np.max(gaps))


def _export_torch(run: runs.Run, path: pathlib.Path) -> Flat:
  weight_files.write(path, torch_metro.to_state_dict(run.variables))
  stored = weight_files.read(path)
  return flatten(torch_metro.from_state_dict(stored, run.variables))


def measured_mm(workdir: str | os.PathLike[str]) -> tuple[dict[str, float], int | None]:
  """The run's own errors on its test split, and of which step; perhaps nothing."""
  path = folders.as_folder(workdir) / assessment.FOLDER / "test.json"
  try:
    text = patience.patiently(str(path), path.read_text, folders.MISSING)
  except folders.MISSING:
    return {}, None
  stored = json.loads(text)
  errors = {name: stored[name] for name in metrics.NAMES if stored[name] is not None}
  return errors, stored.get("step")


def main(arguments: list[str]) -> None:
  command_line.expect_no_arguments(arguments)
  workdir = FLAGS.workdir
  output = FLAGS.output or f"{workdir.rstrip('/')}/export/{FLAGS.format}"
  bucket.expect_usable(workdir, writes=False)
  bucket.expect_usable(output)
  choice = Choice(
    FLAGS.format,
    FLAGS.parameters,
    FLAGS.image_type,
    *measured_mm(workdir),
    runtime=FLAGS.runtime,
  )
  names = file_names(choice)
  which, averaged = runs.parse_checkpoint(FLAGS.checkpoint), FLAGS.weights == "averaged"
  with bucket.RunFolder(output, fetched=[outputs.LEDGER]) as folder:
    Outputs(folder.local, "export", folder.address).expect_free(names)
    run = runs.load(workdir, which, averaged=averaged)
    difference = export(run, folder.local, choice)
    for name in sorted(names):
      print(f"{name:24}{(folder.local / name).stat().st_size / 1e6:10.2f} MB")
  print(f"Read back and compared with step {run.step}: at most {difference:.3g} apart")


if __name__ == "__main__":
  define_flags()
  command_line.run("export", main)
