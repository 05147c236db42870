"""Results as tables, as plain values, and beside those of an earlier run."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from metro_jax.benchmarking.suite import Measured, Row
from metro_jax.benchmarking.timing import Timing

GIB = 2**30
BARS = {  # what the project asks for
  "pmap_over_jit": (1.02, "at most"),
  "step_beside_save_over_alone": (1.2, "at most"),
  "input_over_original": (3.0, "at least"),
}
_HEAD = "| {} | images/s | ms | spread | memory | GFLOP/s | of the ceiling |{}"


def values(measured: Measured, setting: Mapping[str, Any]) -> dict[str, Any]:
  """All results as plain values, fit for JSON.

  Args:
    measured: By the suite.
    setting: What was measured: config, batch sizes.
  """
  found = {
    "setting": dict(setting),
    "device": jax.local_devices()[0].device_kind,
    "devices": jax.local_device_count(),
    "jax": jax.__version__,
    "ceiling": measured.ceiling._asdict(),
    "rows": {row.name: _row_values(row, measured) for row in measured.rows},
    "parts": {row.name: _row_values(row, measured) for row in measured.parts},
    "ratios": _ratios(measured),
  }
  if measured.input is not None:
    found["input_images_per_second_and_core"] = measured.input.per_core
  if measured.saving is not None:
    found["saving"] = {
      "alone": measured.saving.alone._asdict(),
      "beside": measured.saving.beside._asdict(),
      "handing_over": measured.saving.handing_over._asdict(),
      "saves": measured.saving.saves,
    }
  return found


def _ratios(measured: Measured) -> dict[str, float]:
  found = {}
  if measured.pmap:
    pmap, plain = measured.pmap["pmap"], measured.pmap["jit"]
    found["pmap_over_jit"] = pmap.seconds / plain.seconds
  if measured.saving is not None:
    found["step_beside_save_over_alone"] = measured.saving.ratio
  if measured.input is not None:
    found["input_over_original"] = measured.input.ratio
  return found


def _row_values(row: Row, measured: Measured) -> dict[str, Any]:
  speed = row.flops / row.timing.seconds
  return {
    "images": row.examples,
    "images_per_second": row.examples / row.timing.seconds,
    "seconds": row.timing._asdict(),
    "memory_bytes": row.memory_bytes,
    "flops": row.flops,
    "flops_per_second": speed,
    "share_of_ceiling": speed / measured.ceiling.flops,
    "compile_seconds": row.compile_seconds,
  }


def text(found: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
  """The tables of `values`, in Markdown.

  Args:
    found: What was measured.
    old: The same of an earlier run, to compare with.
  """
  top = found["ceiling"]
  before = "" if old is None else " before |"
  lines = [
    f"{found['devices']} x {found['device']}, jax {found['jax']}",
    f"matmul ceiling: {top['flops'] / 1e9:,.0f} GFLOP/s a device, {top['dtype']}, "
    f"{top['side']} squared",
    "",
  ]
  for group, title in (("rows", ""), ("parts", "part of the training step")):
    if not found[group]:
      continue
    rule = "|---" * (7 + (old is not None)) + "|"
    lines += [_HEAD.format(title, before), rule]
    past = (old or {}).get(group, {})
    for name, row in found[group].items():
      lines.append(_line(name, row, past.get(name), old is not None))
    lines.append("")
  lines += _sum_of_parts(found)
  lines += [_ratio(name, value) for name, value in found["ratios"].items()]
  lines += _extras(found)
  return "\n".join(lines).rstrip()


def _line(name: str, row: Mapping[str, Any], past: Any, comparing: bool) -> str:
  seconds = Timing(**row["seconds"])
  speed = row["images_per_second"]
  cells = [
    name,
    f"{speed:,.1f}",
    f"{1e3 * seconds.seconds:,.2f}",
    f"±{seconds.spread / 2:.0%} of {seconds.repeats}",
    f"{row['memory_bytes'] / GIB:.2f} GiB" if row["memory_bytes"] else "",
    f"{row['flops_per_second'] / 1e9:,.1f}" if row["flops"] else "",
    f"{row['share_of_ceiling']:.0%}" if row["flops"] else "",
  ]
  if comparing:
    known = past and past["images_per_second"]
    cells.append(f"{speed / past['images_per_second']:.2f} x" if known else "new")
  return "| " + " | ".join(cells) + " |"


def _sum_of_parts(found: Mapping[str, Any]) -> list[str]:
  parts, whole = found["parts"], found["rows"].get("train step")
  if not parts or whole is None:
    return []
  total = sum(part["seconds"]["seconds"] for part in parts.values())
  step = whole["seconds"]["seconds"]
  return [
    f"parts together: {1e3 * total:,.2f} ms, {total / step:.0%} of the training step",
    "",
  ]


def _ratio(name: str, value: float) -> str:
  bar, side = BARS[name]
  met = value <= bar if side == "at most" else value >= bar
  said = "" if met else ", missed"
  return f"{name.replace('_', ' ')}: {value:.3f} (bar: {side} {bar:g}{said})"


def _extras(found: Mapping[str, Any]) -> list[str]:
  lines = []
  if "input_images_per_second_and_core" in found:
    speed = found["input_images_per_second_and_core"]
    lines.append(f"input: {speed:,.0f} images/s a core, from JPEGs of 500 pixels")
  if "saving" in found:
    saving = found["saving"]
    hand = saving["handing_over"]["seconds"]
    lines.append(
      f"saves: {saving['saves']}, {saving['beside']['repeats']} steps beside them; "
      f"handing the state over takes {1e3 * hand:,.0f} ms"
    )
  return lines


def read(path: pathlib.Path) -> dict[str, Any]:
  """An earlier run's results.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is not one of ours.
  """
  if not path.is_file():
    raise FileNotFoundError(f"--compare: expected a file of --json, found no {path}")
  try:
    found = json.loads(path.read_text())
    rows = found["rows"]
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ValueError(f"{path}: expected results of --json, got {error}") from error
  if not isinstance(rows, dict):
    raise ValueError(f"{path}: expected results of --json, got rows {type(rows)}")
  return found
