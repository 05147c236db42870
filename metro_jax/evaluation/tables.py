"""Errors per joint and per group of examples, as data and as text."""

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.data.pipeline import Source
from metro_jax.evaluation.protocols import METRICS, Protocol

JOINT_METRICS = ("mpjpe_mm", "pa_mpjpe_mm")
MEAN_OF_GROUPS = "mean of these"
_THREADS = 16


class Tables(NamedTuple):
  """Means by row name, then by metric.

  Attributes:
    joints: Per joint.
    groups: Per group of examples, in the order of their names; empty if there are no
      groups.
    examples: How many examples each group has.
    group: What a group is: an action, a sequence.
  """

  joints: dict[str, dict[str, float]]
  groups: dict[str, dict[str, float]]
  examples: dict[str, int]
  group: str


def make(
  errors: Mapping[str, Float[np.ndarray, " n"]],
  joint_errors_mm: Mapping[str, Float[np.ndarray, "n j"]],
  groups: Sequence[str],
  protocol: Protocol,
) -> Tables:
  """Averages errors over the examples of each group, and over all for each joint.

  Args:
    errors: Per metric, of every example; NaN where it does not count.
    joint_errors_mm: Per metric of `JOINT_METRICS`, of every example and joint.
    groups: Of every example; "" for none.
    protocol: Names the joints and metrics.
  """
  per_joint = {
    name: {metric: _mean(joint_errors_mm[metric][:, j]) for metric in JOINT_METRICS}
    for j, name in enumerate(protocol.joints)
  }
  names = sorted(set(groups) - {""})
  member = np.asarray(list(groups), object)
  per_group, examples = {}, {}
  for name in [*names, *([""] if names and "" in groups else [])]:
    rows = np.flatnonzero(member == name)
    title = name or f"no {protocol.group}"
    per_group[title] = {m: _mean(errors[m][rows]) for m in protocol.metrics}
    examples[title] = len(rows)
  return Tables(per_joint, per_group, examples, protocol.group)


def groups_of(source: Source, rows: Int[np.ndarray, " n"]) -> list[str]:
  """Reads the groups of examples, several at once.

  Args:
    source: The split.
    rows: Which examples.
  """

  def read(row: int) -> str:
    group = source[row].get("group", "")
    return group.decode() if isinstance(group, bytes) else str(group)

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(read, (int(row) for row in rows)))


def as_json(tables: Tables) -> dict:
  """Lists what the JSON file holds; a mean of nothing is null."""
  groups = {
    name: {"examples": tables.examples[name], **_finite(values)}
    for name, values in tables.groups.items()
  }
  return {
    "joints": {name: _finite(values) for name, values in tables.joints.items()},
    "groups": groups,
  }


def as_markdown(tables: Tables) -> str:
  """Writes both tables, which Markdown shows as such and a terminal in columns."""
  joints = [
    [name, *(METRICS[m].format(values[m]) for m in JOINT_METRICS)]
    for name, values in tables.joints.items()
  ]
  titles = [METRICS[m].title for m in JOINT_METRICS]
  parts = [_table(["joint", *titles], joints)]
  if tables.groups:
    names = list(next(iter(tables.groups.values())))
    rows = [
      [group, f"{tables.examples[group]:,}", *(METRICS[m].format(v[m]) for m in names)]
      for group, v in tables.groups.items()
    ]
    means = [_mean(np.array([v[m] for v in tables.groups.values()])) for m in names]
    cells = [METRICS[m].format(v) for m, v in zip(names, means, strict=True)]
    rows.append([MEAN_OF_GROUPS, f"{sum(tables.examples.values()):,}", *cells])
    header = [tables.group, "examples", *(METRICS[m].title for m in names)]
    parts.append(_table(header, rows))
  return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

  def line(cells: Sequence[str]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *rest])} |"

  rule = "|".join(
    ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
  )
  return "\n".join([line(header), f"|{rule}|", *(line(row) for row in rows)])


def _mean(values: np.ndarray) -> float:
  kept = values[np.isfinite(values)]
  return float(kept.mean(dtype=np.float64)) if len(kept) else float("nan")


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
  return {name: v if np.isfinite(v) else None for name, v in values.items()}
