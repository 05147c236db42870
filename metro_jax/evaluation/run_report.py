"""The report of a run, put together from what it logged and how it did."""

import datetime
import pathlib
import platform
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from metro_jax.checkpoints import runs
from metro_jax.cluster import consistency
from metro_jax.evaluation import metrics, protocols
from metro_jax.evaluation.assessment import Assessment
from metro_jax.rendering import charts, report
from metro_jax.training import logs

FILE = "report.html"
LOSS_TERMS = {
  "loss": "total, weighted",
  "vertices": "vertices",
  "joints": "joints",
  "regressed_joints": "regressed joints",
  "projection": "2D projection",
}


def write(
  workdir: pathlib.Path,
  config: ConfigDict,
  assessment: Assessment,
  pictures: Sequence[report.Picture],
  step: int,
  facts: Mapping[str, str],
) -> pathlib.Path:
  """Writes `<workdir>/report.html`.

  Args:
    workdir: Of the run; its metrics file gives the curves.
    config: Of the run.
    assessment: Of the test split.
    pictures: Examples of it.
    step: Of the checkpoint that was assessed.
    facts: What only the run knows, such as its duration; shown before versions.

  Returns:
    The file's path.
  """
  lines = logs.read_metrics(workdir)
  page = report.Report(
    title=f"METRO on {' + '.join(config.data.train)}: {config.model.backbone}",
    summary=(
      f"{assessment.results.examples:,} {assessment.split} examples, after step "
      f"{step:,} of {config.train.num_steps:,}."
    ),
    errors=error_rows(assessment),
    baseline=protocols.BASELINE,
    protocol=protocols.describe(assessment.protocol),
    pictures=pictures,
    charts=curves(lines, assessment.baseline.means_mm),
    facts={**facts, **_measured(lines), **_circumstances()},
    config_text=settings(config),
  )
  path = workdir / FILE
  report.write_report(path, page)
  return path


def settings(config: ConfigDict) -> str:
  """Writes every setting on a line, as an override on the command line."""
  flat = runs.flatten(config.to_dict())
  return "\n".join(f"--config.{key}={value!r}" for key, value in flat.items())


def error_rows(assessment: Assessment) -> list[report.ErrorRow]:
  """Puts the network's errors beside the baseline's, as the report shows them."""
  return [
    report.ErrorRow(
      protocols.METRICS[name].title,
      protocols.METRICS[name].meaning,
      assessment.results.means[name],
      assessment.baseline.means[name],
    )
    for name in assessment.protocol.metrics
    if protocols.METRICS[name].unit
  ]


def curves(
  lines: Sequence[Mapping], baseline_mm: Mapping[str, float]
) -> list[charts.Chart]:
  """Loss terms, validation errors with the test baseline's, and speed by step.

  Of a mixture also loss and error of the training examples of each dataset.

  Args:
    lines: Of `logs.read_metrics`.
    baseline_mm: Errors to draw as dashed lines.
  """
  titles = {name: protocols.METRICS[name].title for name in metrics.NAMES}
  levels = [
    charts.Level(f"{title} of the mean mesh", baseline_mm[name], title)
    for name, title in titles.items()
  ]
  train, validation = _group(lines, "train"), _group(lines, "validation")
  speed = {"images_per_second": "images/s"}
  return [
    charts.Chart("Training loss", "L1 loss", _curves(train, LOSS_TERMS), log=True),
    charts.Chart("Validation error", "mm", _curves(validation, titles), levels),
    charts.Chart("Training speed", "images/s", _curves(train, speed)),
    *_by_dataset(train),
  ]


def _by_dataset(lines: Sequence[Mapping]) -> list[charts.Chart]:
  """What `training.window` logs as "DATASET/loss" and "DATASET/mpjpe_mm"."""
  found = []
  for ending, title, unit in (
    ("/loss", "Training loss by dataset", "loss"),
    ("/mpjpe_mm", "Training MPJPE by dataset", "mm"),
  ):
    names = dict.fromkeys(n for line in lines for n in line if n.endswith(ending))
    labels = {name: name.removesuffix(ending) for name in names}
    if labels:
      found.append(charts.Chart(title, unit, _curves(lines, labels)))
  return found


def _group(lines: Sequence[Mapping], group: str) -> list[Mapping]:
  return [line for line in lines if line["group"] == group]


def _curves(lines: Sequence[Mapping], labels: Mapping[str, str]) -> list[charts.Curve]:
  found = []
  for name, label in labels.items():
    points = [(line["step"], line[name]) for line in lines if name in line]
    if points:
      steps, values = zip(*points, strict=True)
      found.append(charts.Curve(label, steps, values))
  return found


def _measured(lines: Sequence[Mapping]) -> dict[str, str]:
  name = "images_per_second"
  rates = [line[name] for line in _group(lines, "train") if name in line]
  if not rates:
    return {}
  return {"Training speed": f"{np.median(rates):,.1f} images/s (median)"}


def _circumstances() -> dict[str, str]:
  """Devices and versions of this process, and the time."""
  devices = jax.devices()
  kinds = ", ".join(sorted({device.device_kind for device in devices}))
  processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
  found = {
    "Devices": f"{len(devices)} × {kinds}{processes}",
    "Finished": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    "Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
  }
  return {**found, **consistency.versions()}
