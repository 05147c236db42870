"""Hands a trained network on: as a program, or as its weights.

Run:    python -m metro_jax.export --workdir=RUN
          --format=stablehlo|safetensors|npz|torch
          [--output=FOLDER] [--checkpoint=best|latest|STEP] [--weights=averaged|last]
          [--parameters=beside|inside] [--image_type=uint8|float32]
Result: In FOLDER (RUN/export/FORMAT by default), with a model card in README.md and
          the same facts in model.json:
          stablehlo    network.bin, parameters.npz (beside) and run.py, which needs jax
                       and flatbuffers; any batch size, on CPU, CUDA and TPU
          safetensors  parameters.safetensors, keys as our variables' paths
          npz          parameters.npz, the same
          torch        metro_state_dict.bin, the original's keys and file format
        Each is read back and compared with the checkpoint before it is called done.
        RUN and FOLDER may be gs:// addresses.
"""

import json
import os
import pathlib
import shutil
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from absl import flags

from metro_jax import command_line, files, folders, outputs
from metro_jax.checkpoints import bucket, patience, runs
from metro_jax.evaluation import assessment, metrics
from metro_jax.exporting import run_exported
from metro_jax.inference import forward_pass
from metro_jax.outputs import Outputs
from metro_jax.weights import torch_metro, weight_files

FORMATS = ("stablehlo", "safetensors", "npz", "torch")
WEIGHTS = ("averaged", "last")
PARAMETERS = ("beside", "inside")
IMAGE_TYPES = ("uint8", "float32")
PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # metres; far above float32 noise, far below anything visible
LICENCE = "Apache-2.0 for code; these weights follow the data they were trained on"
WEIGHT_FILES = {
  "safetensors": "parameters.safetensors",
  "npz": "parameters.npz",
  "torch": "metro_state_dict.bin",
}
CARD_FILES = ("README.md", "model.json")
FLAGS = flags.FLAGS
Flat = dict[str, np.ndarray]


class Choice(NamedTuple):
  """How to export; see the flags.

  Attributes:
    form: One of `FORMATS`.
    parameters: Of stablehlo, one of `PARAMETERS`.
    image_type: Of stablehlo, one of `IMAGE_TYPES`.
    errors_mm: What the network is known to miss by, for its card; may be empty.
    errors_step: The step that was measured.
  """

  form: str
  parameters: str = "beside"
  image_type: str = "uint8"
  errors_mm: Mapping[str, float] = types.MappingProxyType({})
  errors_step: int | None = None


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
  flags.DEFINE_enum("format", FORMATS[0], FORMATS, "What to write.")
  flags.DEFINE_string("output", None, "Folder; WORKDIR/export/FORMAT by default.")
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  text = "Averaged parameters, where the run kept them, or the last ones."
  flags.DEFINE_enum("weights", WEIGHTS[0], WEIGHTS, text)
  flags.DEFINE_enum("parameters", "beside", PARAMETERS, "Of stablehlo: where they are.")
  flags.DEFINE_enum("image_type", "uint8", IMAGE_TYPES, "Of stablehlo's pictures.")


def export(run: runs.Run, folder: pathlib.Path, choice: Choice) -> float:
  """Writes an export, reads it back and compares; only then is it in the folder.

  Args:
    run: The network and its parameters.
    folder: Made if it does not exist.
    choice: What to write.

  Returns:
    The largest difference from the checkpoint: of outputs, metres, for stablehlo; of
    parameters otherwise.

  Raises:
    ValueError: If what was read back differs by more than it may.
    FileExistsError: If a file would take the place of one that export did not write.
  """
  flat = flatten(run.variables)
  with Outputs(folder, "export").adding() as made:
    if choice.form == "stablehlo":
      difference = _export_program(run, flat, made, choice)
      allowed = TOLERANCE
    else:
      difference = _export_weights(run, flat, made, choice)
      allowed = 0.0
    if not difference <= allowed:
      raise ValueError(
        f"{folder}: expected the checkpoint back within {allowed:g}, got a difference "
        f"of {difference:g}"
      )
  return difference


def file_names(choice: Choice) -> list[str]:
  """What an export's folder will hold."""
  if choice.form != "stablehlo":
    return [WEIGHT_FILES[choice.form], *CARD_FILES]
  beside = ["parameters.npz"] if choice.parameters == "beside" else []
  return ["network.bin", *beside, "run.py", *CARD_FILES]


def flatten(variables: Any) -> Flat:
  """Parameters and statistics by path, such as "params/backbone/conv1/kernel"."""
  flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
  return {name: np.asarray(value) for name, value in flat.items()}


def _export_program(
  run: runs.Run, flat: Flat, folder: pathlib.Path, choice: Choice
) -> float:
  forward = forward_pass.make_forward(run.network)
  beside = choice.parameters == "beside"

  def from_flat(given: Any, images: Any) -> dict[str, jax.Array]:
    return forward(flax.traverse_util.unflatten_dict(given, sep="/"), images)

  def program(*inputs: Any) -> dict[str, jax.Array]:
    return from_flat(*inputs) if beside else from_flat(flat, *inputs)

  px = run.config.data.image_px
  (batch,) = jax.export.symbolic_shape("b")
  images = jax.ShapeDtypeStruct((batch, px, px, 3), np.dtype(choice.image_type))
  shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
  inputs = (shapes, images) if beside else (images,)
  exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*inputs)
  with files.replacing(folder / "network.bin") as partial:
    partial.write_bytes(exported.serialize())
  if beside:
    _write_npz(folder / "parameters.npz", flat)
  shutil.copyfile(run_exported.__file__, folder / "run.py")
  _write_card(run, folder, choice)
  return _compare(run_exported.load(folder), jax.jit(from_flat), flat, images)


def _compare(
  reloaded: Callable[[np.ndarray], Flat],
  forward: Callable[[Any, Any], dict[str, Any]],
  flat: Flat,
  images: jax.ShapeDtypeStruct,
) -> float:
  """The largest difference over all outputs, for batches of one and three."""
  worst = 0.0
  for size in (1, 3):
    noise = np.random.default_rng(size).integers(0, 256, (size, *images.shape[1:]))
    pictures = noise.astype(images.dtype)
    made, wanted = reloaded(pictures), forward(flat, pictures)
    gaps = [np.abs(made[k] - np.asarray(wanted[k])).max() for k in forward_pass.OUTPUTS]
    worst = max(worst, float(np.max(gaps)))
  return worst


def _export_weights(
  run: runs.Run, flat: Flat, folder: pathlib.Path, choice: Choice
) -> float:
  path = folder / WEIGHT_FILES[choice.form]
  if choice.form == "torch":
    back = _export_torch(run, path)
  elif choice.form == "safetensors":
    with files.replacing(path) as partial:
      safetensors.numpy.save_file(flat, partial, _metadata(run, choice))
    back = safetensors.numpy.load_file(path)
  else:
    _write_npz(path, flat)
    with np.load(path, allow_pickle=False) as stored:
      back = {name: stored[name] for name in stored.files}
  _write_card(run, folder, choice)
  if back.keys() != flat.keys():
    raise ValueError(f"{folder}: expected {len(flat)} arrays back, got {len(back)}")
  gaps = [np.abs(back[name] - value).max() for name, value in flat.items()]
  return float(np.max(gaps))


def _export_torch(run: runs.Run, path: pathlib.Path) -> Flat:
  weight_files.write(path, torch_metro.to_state_dict(run.variables))
  stored = weight_files.read(path)
  return flatten(torch_metro.from_state_dict(stored, run.variables))


def _write_npz(path: pathlib.Path, arrays: Flat) -> None:
  with files.replacing(path) as partial, partial.open("wb") as file:
    np.savez(file, allow_pickle=False, **arrays)


def _metadata(run: runs.Run, choice: Choice) -> dict[str, str]:
  return {name: json.dumps(value) for name, value in _facts(run, choice).items()}


def _facts(run: runs.Run, choice: Choice) -> dict[str, Any]:
  """What a stranger needs to know of the file; plain values."""
  facts = {
    "format": choice.form,
    "step": run.step,
    "image_px": run.config.data.image_px,
    "joint_names": list(run.network.body.joint_names),
    "outputs": forward_pass.OUTPUTS,
    "licence": LICENCE,
    "errors_mm": dict(choice.errors_mm),
    "errors_step": choice.errors_step,
    "config": run.config.to_dict(),
    "earlier_settings": list(run.earlier),
  }
  if choice.form == "stablehlo":
    facts |= {"parameters": choice.parameters, "image_type": choice.image_type}
  return facts


def _write_card(run: runs.Run, folder: pathlib.Path, choice: Choice) -> None:
  facts = _facts(run, choice)
  named = {k.removesuffix("_mm"): v for k, v in choice.errors_mm.items()}
  errors = ", ".join(f"{name} {value:.1f} mm" for name, value in named.items())
  others = choice.errors_step not in (None, run.step)
  of_step = f", of step {choice.errors_step}" if others else ""
  files.write_json(folder / "model.json", facts)
  lines = [
    "# METRO: one image to joints and a mesh",
    "",
    f"{run.config.model.backbone}, {facts['image_px']} px, {run.step} training steps.",
    f"Licence: {LICENCE}.",
    "",
    "Input: RGB crops around one person, 0 to 255. Outputs:",
    "",
    *(f"- `{name}` {text}" for name, text in forward_pass.OUTPUTS.items()),
    "",
    f"Joints, in order: {', '.join(run.network.body.joint_names)}.",
    "",
    *([f"Errors on the run's test split{of_step}: {errors}.", ""] if errors else []),
    "`model.json` holds the same and the whole config.",
  ]
  with files.replacing(folder / "README.md") as partial:
    partial.write_text("\n".join(lines) + "\n")


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
    FLAGS.format, FLAGS.parameters, FLAGS.image_type, *measured_mm(workdir)
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
