"""Results as tables, as plain values, and beside those of an earlier run."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from metro_jax.benchmarking.ceiling import Ceiling
from metro_jax.benchmarking.suite import Row
from metro_jax.benchmarking.timing import Timing

GIB = 2**30
_HEAD = "| {} | images/s | ms | spread | memory | GFLOP/s | of the ceiling |{}"
_TITLES = {"rows": "", "parts": "part of the training step"}


def values(ceiling: Ceiling, setting: Mapping[str, Any]) -> dict[str, Any]:
  """Returns results without rows yet, as plain values, fit for JSON.

  Args:
    ceiling: The fastest matrix products.
    setting: What is measured: config, batch sizes.
  """
  return {
    "setting": dict(setting),
    "device": jax.local_devices()[0].device_kind,
    "devices": jax.local_device_count(),
    "jax": jax.__version__,
    "ceiling": ceiling._asdict(),
    "rows": {},
    "parts": {},
  }


def heading(found: Mapping[str, Any]) -> str:
  """Returns what stands above the tables."""
  top = found["ceiling"]
  return (
    f"{found['devices']} x {found['device']}, jax {found['jax']}\n"
    f"matmul ceiling: {top['flops'] / 1e9:,.0f} GFLOP/s a device, {top['dtype']}, "
    f"{top['side']} squared"
  )


def add(found: dict[str, Any], row: Row, old: Mapping[str, Any] | None = None) -> str:
  """Takes a row into the results; returns its line, in Markdown.

  The first line of a table has its head above it.

  Args:
    found: What was measured so far; changed.
    row: What was measured now.
    old: The results of an earlier run, to compare with.
  """
  group = "parts" if row.is_part else "rows"
  first, compared = not found[group], old is not None
  found[group][row.name] = _row_values(row, found["ceiling"]["flops"])
  if row.per_core:
    found["input_images_per_second_and_core"] = row.per_core
  past = (old or {}).get(group, {}).get(row.name)
  line = _line(row.name, found[group][row.name], past, compared)
  if not first:
    return line
  head = _HEAD.format(_TITLES[group], " before |" if compared else "")
  return f"\n{head}\n{'|---' * (7 + compared)}|\n{line}"


def _row_values(row: Row, ceiling_flops: float) -> dict[str, Any]:
  speed = row.flops / row.timing.seconds
  return {
    "images": row.examples,
    "images_per_second": row.examples / row.timing.seconds,
    "seconds": row.timing._asdict(),
    "memory_bytes": row.memory_bytes,
    "flops": row.flops,
    "flops_per_second": speed,
    "share_of_ceiling": speed / ceiling_flops,
    "compile_seconds": row.compile_seconds,
  }


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


def closing(found: Mapping[str, Any]) -> str:
  """Returns what stands below the tables."""
  lines = []
  parts, whole = found["parts"], found["rows"].get("train step")
  if parts and whole is not None:
    total = sum(part["seconds"]["seconds"] for part in parts.values())
    share = total / whole["seconds"]["seconds"]
    text = f"parts together: {1e3 * total:,.2f} ms, {share:.0%} of the training step"
    lines.append(text)
  if "input_images_per_second_and_core" in found:
    speed = found["input_images_per_second_and_core"]
    lines.append(f"input: {speed:,.0f} images/s a core, from JPEGs of 500 pixels")
  return "\n".join(["", *lines]).rstrip()


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads an earlier run's results.

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
