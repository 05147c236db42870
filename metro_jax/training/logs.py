"""Where a run's numbers go: a JSON line, TensorBoard files, and one live line."""

import json
import os
import pathlib
import time
from collections.abc import Mapping

import numpy as np
import tensorboardX
import tqdm
from jaxtyping import UInt8

from metro_jax import files
from metro_jax.training import goodput

METRICS_FILE = "metrics.jsonl"


class RunLog:
  """Writes scalars and pictures of a run; a context manager.

  Every call of `scalars` appends one line to `<workdir>/metrics.jsonl` and one point
  a curve to the TensorBoard files in `<workdir>/tensorboard`. Training shows one
  live line with the newest loss, the rate and the time left; where there is no
  terminal the same facts are printed once a log step.

  After a resume the lines and points beyond the restored step are dropped, so that
  every step stands in the file once.

  Args:
    workdir: Of the run.
    first_step: The restored step.
    num_steps: Of the run.
    batch_size: Of the run, for rates.
    validated: Whether the restored step was validated; if not its lines go, too.
    enabled: False for a process that writes nothing, because another one does.

  Attributes:
    work: What training takes of the devices, as soon as it is known.
  """

  work = goodput.UNKNOWN

  def __init__(
    self,
    workdir: pathlib.Path,
    first_step: int,
    num_steps: int,
    batch_size: int,
    validated: bool = True,
    enabled: bool = True,
  ):
    self._enabled = enabled
    file = workdir / METRICS_FILE if enabled else pathlib.Path(os.devnull)
    if enabled and file.exists():
      _drop_after(file, first_step, validated)
    self._lines = file.open("a", buffering=1)
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"),
      purge_step=first_step + 1,
      max_queue=100,
      write_to_disk=enabled,
    )
    self._num_steps, self._batch_size = num_steps, batch_size
    self._step = first_step
    self._mark = (time.perf_counter(), first_step)
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=first_step,
      unit="step",
      desc="training",
      disable=None if enabled else True,
      dynamic_ncols=True,
    )

  def __enter__(self) -> "RunLog":
    return self

  def __exit__(self, *error: object) -> None:
    self._bar.close()
    self._lines.close()
    self._board.close()

  def tick(self, step: int) -> None:
    """Moves the live line to `step`."""
    self._bar.update(step - self._step)
    self._step = step

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs averaged training metrics together with the speed since the last call."""
    now, (then, last_step) = time.perf_counter(), self._mark
    rate = (step - last_step) * self._batch_size / max(now - then, 1e-9)
    self._mark = (now, step)
    metrics = {
      **metrics,
      "images_per_second": rate,
      **self.work.speed(rate),
    }
    self.scalars(step, "train", metrics)
    left_s = (self._num_steps - step) * self._batch_size / max(rate, 1e-9)
    text = _live(metrics)
    if self._bar.disable:
      left = tqdm.tqdm.format_interval(left_s)
      self.say(f"step {step}/{self._num_steps}: {text}, {left} left")
    else:
      self._bar.set_postfix_str(text)

  def pause(self) -> None:
    """Leaves the time until `resume` out of the next training rate."""
    self._paused_at = time.perf_counter()

  def resume(self) -> None:
    """Ends a `pause`."""
    then, step = self._mark
    self._mark = (then + time.perf_counter() - self._paused_at, step)

  def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
    """Writes one JSON line, with the time, and one TensorBoard point a value."""
    numbers = {name: float(value) for name, value in values.items()}
    line = {"step": step, "group": group, "time": round(time.time(), 3), **numbers}
    self._lines.write(json.dumps(line) + "\n")
    for name, value in numbers.items():
      self._board.add_scalar(f"{group}/{name}", value, step)

  def picture(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an RGB picture to the TensorBoard files."""
    self._board.add_image(name, image, step, dataformats="HWC")

  def say(self, text: str) -> None:
    """Prints without breaking the live line."""
    if not self._bar.disable:
      self._bar.write(text)
    elif self._enabled:
      print(text, flush=True)


def _drop_after(file: pathlib.Path, step: int, validated: bool) -> None:
  """Drops the lines beyond a step, and its own validation if it is to come again."""

  def is_kept(line: dict) -> bool:
    repeated = line["group"] == "validation" and not validated
    return line["step"] < step or (line["step"] == step and not repeated)

  kept = [line for line in read_metrics(file.parent) if is_kept(line)]
  with files.replacing(file) as partial:
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))


def _live(metrics: Mapping[str, float]) -> str:
  """Returns what the live line says of a step's metrics."""
  text = f"loss {metrics['loss']:.4f}, {metrics['images_per_second']:.1f} images/s"
  if "learning_rate" in metrics:
    text += f", learning rate {metrics['learning_rate']:.2g}"
  if "flops_per_second" in metrics:
    text += f", {goodput.flops_text(metrics['flops_per_second'])}"
  if "share_of_peak" in metrics:
    text += f" ({metrics['share_of_peak']:.0%} of the peak)"
  if "goodput" in metrics:
    text += f", {metrics['goodput']:.0%} of the time in steps"
  return text


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """Reads a run's metrics file, without a last line that a kill cut off."""
  lines = []
  for text in (workdir / METRICS_FILE).read_text().splitlines():
    try:
      lines.append(json.loads(text))
    except json.JSONDecodeError:
      break
  return lines
