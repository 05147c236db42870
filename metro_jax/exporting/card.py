"""What an export says of itself: model.json and the model card."""

import json
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from metro_jax import files
from metro_jax.checkpoints import runs
from metro_jax.inference import forward_pass

LICENCE = "Apache-2.0 for code; these weights follow the data they were trained on"
FILES = ("README.md", "model.json")
Facts = dict[str, Any]


class Choice(NamedTuple):
  """How to export; see the command's flags.

  Attributes:
    form: The format.
    parameters: Of stablehlo, "beside" or "inside".
    image_type: Of the programs, "uint8" or "float32".
    errors_mm: What the network is known to miss by, for its card; may be empty.
    errors_step: The step that was measured.
    runtime: Of web, a folder in which onnxruntime-web is installed.
  """

  form: str
  parameters: str = "beside"
  image_type: str = "uint8"
  errors_mm: Mapping[str, float] = types.MappingProxyType({})
  errors_step: int | None = None
  runtime: str = ""


def facts(run: runs.Run, choice: Choice) -> Facts:
  """What a stranger needs to know of the files; plain values."""
  return {
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


def as_metadata(run: runs.Run, choice: Choice) -> dict[str, str]:
  """The facts as safetensors holds them."""
  return {name: json.dumps(value) for name, value in facts(run, choice).items()}


def write(
  run: runs.Run,
  folder: pathlib.Path,
  choice: Choice,
  more: Mapping[str, Any] = types.MappingProxyType({}),
  remarks: tuple[str, ...] = (),
) -> None:
  """Writes both files.

  Args:
    run: The network.
    folder: Where to.
    choice: How it was exported.
    more: Further facts, of this format.
    remarks: Further paragraphs of the card.
  """
  known = facts(run, choice) | dict(more)
  named = {k.removesuffix("_mm"): v for k, v in choice.errors_mm.items()}
  errors = ", ".join(f"{name} {value:.1f} mm" for name, value in named.items())
  others = choice.errors_step not in (None, run.step)
  of_step = f", of step {choice.errors_step}" if others else ""
  files.write_json(folder / "model.json", known)
  lines = [
    "# METRO: one image to joints and a mesh",
    "",
    f"{run.config.model.backbone}, {known['image_px']} px, {run.step} training steps.",
    f"Licence: {LICENCE}.",
    "",
    "Input: RGB crops around one person, 0 to 255. Outputs:",
    "",
    *(f"- `{name}` {text}" for name, text in forward_pass.OUTPUTS.items()),
    "",
    f"Joints, in order: {', '.join(run.network.body.joint_names)}.",
    "",
    *([f"Errors on the run's test split{of_step}: {errors}.", ""] if errors else []),
    *(line for remark in remarks for line in (remark, "")),
    "`model.json` holds the same and the whole config.",
  ]
  with files.replacing(folder / "README.md") as partial:
    partial.write_text("\n".join(lines) + "\n")
