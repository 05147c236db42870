"""Line charts as inline SVG, for pages that must work without anything else.

Text and axes take the page's colors (CSS variables --ink, --soft, --line); the curves
have mid tones that read on white and on black.
"""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 26, 12, 46
COLORS = ("#3f7ae0", "#e8823a", "#1f9e79", "#c94f93", "#8a6fd6", "#8b95a3", "#b58900")
MOST_POINTS = 300


class Curve(NamedTuple):
  """One line: values at steps, both as long; a value that is not finite is a gap."""

  label: str
  steps: Sequence[float] | np.ndarray
  values: Sequence[float] | np.ndarray


class Level(NamedTuple):
  """A dashed horizontal line to compare with, in the color of the curve so named."""

  label: str
  value: float
  curve: str = ""


class Chart(NamedTuple):
  """Curves that share their axes."""

  title: str
  y_label: str
  curves: Sequence[Curve]
  levels: Sequence[Level] = ()
  x_label: str = "step"
  log: bool = False  # logarithmic y; values that are not positive are gaps


class _Scale(NamedTuple):
  """Maps values to pixels along one axis."""

  low: float
  high: float
  start_px: float
  end_px: float
  log: bool

  def __call__(self, value: float) -> float:
    low, high = self.low, self.high
    if self.log:
      value, low, high = math.log10(value), math.log10(low), math.log10(high)
    share = (value - low) / (high - low)
    return self.start_px + share * (self.end_px - self.start_px)


def svg(chart: Chart) -> str:
  """Draws a chart with axis labels, ticks, grid and legend.

  Args:
    chart: What to draw; without any finite value the chart says so.

  Returns:
    A `<figure>` element: title, `<svg>` and legend.
  """
  curves = [_clean(curve, chart.log) for curve in chart.curves]
  curves = [curve for curve in curves if len(curve.steps)]
  levels = [level for level in chart.levels if _drawable(level.value, chart.log)]
  title = f"<figcaption>{html.escape(chart.title)}</figcaption>"
  if not curves:
    return (
      f'<figure class="chart">{title}<p class="soft">Nothing recorded.</p></figure>'
    )
  x, y = _scales(curves, levels, chart.log)
  parts = [_axes(chart, x, y)]
  colors = {curve.label: _color(i) for i, curve in enumerate(curves)}
  parts += [
    _level(level, colors.get(level.curve, "var(--soft)"), y) for level in levels
  ]
  parts += [_line(curve, colors[curve.label], x, y) for curve in curves]
  label = html.escape(f"{chart.title}: {chart.y_label} against {chart.x_label}")
  return (
    f'<figure class="chart">{title}'
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    f"{''.join(parts)}</svg>{_legend(curves, levels, colors)}</figure>"
  )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
  """Round numbers (1, 2 or 5 times a power of ten) that cover an interval.

  Args:
    low: Lower end.
    high: Upper end, above it.
    most: Most steps between the ends.

  Returns:
    Ascending; the first is at or below `low`, the last at or above `high`.
  """
  raw = (high - low) / most
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
  first = math.floor(low / step + 1e-9)
  last = math.ceil(high / step - 1e-9)
  return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """Powers of ten around a positive interval; with 2 and 5 between, if it is short."""
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  factors = (1, 2, 5) if last - first <= 2 else (1,)
  marks = [m * 10.0**p for p in range(first, last + 2) for m in factors]
  start = max(i for i, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
  end = min(i for i, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
  return marks[start : max(end, start + 1) + 1]


def _drawable(value: float, log: bool) -> bool:
  return math.isfinite(value) and (value > 0 or not log)


def _clean(curve: Curve, log: bool) -> Curve:
  """Returns the curve with gaps as NaN, thinned to the means of equal runs."""
  steps = np.asarray(curve.steps, np.float64)
  values = np.asarray(curve.values, np.float64)
  if steps.shape != values.shape:
    raise ValueError(
      f"chart curve {curve.label!r}: expected as many values as steps, "
      f"got {len(values)} and {len(steps)}"
    )
  drawable = np.isfinite(values) & ((values > 0) | (not log))
  values = np.where(drawable, values, np.nan)
  if not drawable.any():
    return Curve(curve.label, (), ())
  if len(steps) > MOST_POINTS:
    runs = np.array_split(np.arange(len(steps)), MOST_POINTS)
    steps = np.array([steps[run].mean() for run in runs])
    values = np.array([values[run].mean() for run in runs])
  return Curve(curve.label, steps, values)


def _scales(curves, levels, log):
  x_low = min(float(np.min(curve.steps)) for curve in curves)
  x_high = max(float(np.max(curve.steps)) for curve in curves)
  x_high = x_high if x_high > x_low else x_low + 1
  values = [float(f(curve.values)) for curve in curves for f in (np.nanmin, np.nanmax)]
  values += [level.value for level in levels]
  low, high = min(values), max(values)
  if log:
    marks = log_ticks(low, high)
  else:
    low = min(low, 0.0) if low < 0.6 * high else low
    marks = ticks(low, high if high > low else low + 1)
  x = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT, False)
  y = _Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, log)
  return x, y


def _axes(chart: Chart, x: _Scale, y: _Scale) -> str:
  parts = []
  marks = log_ticks(y.low, y.high) if y.log else ticks(y.low, y.high)
  for mark in marks:
    at = y(mark)
    parts.append(
      f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"'
      f' class="grid"/><text x="{LEFT - 8}" y="{at + 4:.1f}"'
      f' text-anchor="end">{_number(mark)}</text>'
    )
  base = HEIGHT - BOTTOM
  for mark in ticks(x.low, x.high):
    if x.low <= mark <= x.high:
      at = x(mark)
      parts.append(
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 5}" class="axis"/>'
        f'<text x="{at:.1f}" y="{base + 19}" text-anchor="middle">'
        f"{_number(mark)}</text>"
      )
  middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + base) / 2
  y_label = chart.y_label + (" (log scale)" if chart.log else "")
  parts.append(
    f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}" class="axis"/>'
    f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle" class="label">'
    f"{html.escape(chart.x_label)}</text>"
    f'<text transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle"'
    f' class="label">{html.escape(y_label)}</text>'
  )
  return "".join(parts)


def _line(curve: Curve, color: str, x: _Scale, y: _Scale) -> str:
  """Returns the path, with dots where the points are few enough to be told apart."""
  commands, pen_down, dots = [], False, []
  for step, value in zip(curve.steps, curve.values, strict=True):
    if math.isnan(value):
      pen_down = False
      continue
    at = f"{x(step):.1f} {y(value):.1f}"
    commands.append(("L" if pen_down else "M") + at)
    pen_down = True
    left, top = at.split()
    tip = html.escape(f"{curve.label}: {_number(value)} at {_number(step)}")
    dots.append(
      f'<circle cx="{left}" cy="{top}" r="2.6" fill="{color}"><title>{tip}</title>'
      "</circle>"
    )
  path = f'<path d="{"".join(commands)}" stroke="{color}" class="curve"/>'
  return path + ("".join(dots) if len(dots) <= 40 else "")


def _level(level: Level, color: str, y: _Scale) -> str:
  at = f"{y(level.value):.1f}"
  return (
    f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="{color}"'
    ' class="level"/>'
  )


def _legend(curves, levels, colors) -> str:
  items = []
  for curve in curves:
    last = curve.values[~np.isnan(curve.values)][-1]
    items.append(_legend_item(colors[curve.label], "", curve.label, last))
  for level in levels:
    color = colors.get(level.curve, "var(--soft)")
    items.append(_legend_item(color, " dashed", level.label, level.value))
  return f'<ul class="legend">{"".join(items)}</ul>'


def _legend_item(color: str, kind: str, label: str, value: float) -> str:
  return (
    f'<li><i class="key{kind}" style="border-color:{color}"></i>'
    f"{html.escape(label)} <b>{_number(value)}</b></li>"
  )


def _color(i: int) -> str:
  return COLORS[i % len(COLORS)]


def _number(value: float) -> str:
  """Writes three significant digits, without a long tail of zeros."""
  if value == 0:
    return "0"
  size = abs(value)
  if size >= 1e6 or size < 1e-3:
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"
  if size >= 1000:
    return f"{value:,.0f}"
  digits = max(0, 2 - math.floor(math.log10(size)))
  text = f"{value:.{digits}f}"
  return text.rstrip("0").rstrip(".") if "." in text else text
