import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from metro_jax.rendering import charts


def path_points(svg):
  """Returns the commands and places of the first curve."""
  path = re.search(r'<path d="([^"]*)"', svg).group(1)
  return [
    (c, float(x), float(y))
    for c, x, y in re.findall(r"([ML])(\S+) (\S+?)(?=[ML]|$)", path)
  ]


@pytest.mark.parametrize(
  ("low", "high", "expected"),
  [
    (0.0, 100.0, [0, 20, 40, 60, 80, 100]),
    (0.0, 265.0, [0, 50, 100, 150, 200, 250, 300]),
    (0.013, 0.05, [0.01, 0.02, 0.03, 0.04, 0.05]),
    (-3.0, 4.0, [-4, -2, 0, 2, 4]),
  ],
)
def test_ticks_are_round_and_cover_the_interval(low, high, expected):
  np.testing.assert_allclose(charts.ticks(low, high), expected, atol=1e-12)


def test_log_ticks_cover_the_interval_in_1_2_5_when_it_is_short():
  np.testing.assert_allclose(charts.log_ticks(0.03, 0.4), [0.02, 0.05, 0.1, 0.2, 0.5])
  np.testing.assert_allclose(charts.log_ticks(0.1, 0.1), [0.1, 0.2])
  assert charts.log_ticks(1e-6, 1.0)[::6] == [1e-6, 1.0]


def test_a_curve_is_drawn_where_its_values_lie_between_the_ticks():
  chart = charts.Chart("t", "mm", [charts.Curve("a", [0, 10], [0.0, 100.0])])
  svg = charts.svg(chart)
  bottom, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
  left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
  assert path_points(svg) == [("M", left, bottom), ("L", right, top)]


def test_on_a_log_axis_the_geometric_mean_lies_in_the_middle():
  curve = charts.Curve("a", [0, 1, 2], [0.01, 0.1, 1.0])
  points = path_points(charts.svg(charts.Chart("t", "loss", [curve], log=True)))
  heights = [y for _, _, y in points]
  assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.1)


def test_values_that_cannot_be_drawn_are_gaps():
  curve = charts.Curve("a", [0, 1, 2, 3], [1.0, math.nan, 3.0, 4.0])
  points = path_points(charts.svg(charts.Chart("t", "loss", [curve])))
  assert [command for command, _, _ in points] == ["M", "M", "L"]
  empty = charts.Curve("a", [0, 1], [0.0, -1.0])
  assert "Nothing recorded" in charts.svg(charts.Chart("t", "y", [empty], log=True))


def test_long_curves_are_thinned_to_their_means():
  steps = np.arange(3000)
  points = path_points(
    charts.svg(charts.Chart("t", "y", [charts.Curve("a", steps, steps % 2 * 2)]))
  )
  assert len(points) == charts.MOST_POINTS
  # Every mean is 1, where the axis goes from 1 to 2: the bottom.
  assert {y for _, _, y in points} == {charts.HEIGHT - charts.BOTTOM}


def test_labels_legend_and_levels_are_written_and_escaped():
  chart = charts.Chart(
    "Errors <b>",
    "mm",
    [charts.Curve("A & B", [1, 2], [3.0, 4.0])],
    [charts.Level("mean mesh", 5.0, "A & B")],
  )
  svg = charts.svg(chart)
  root = ElementTree.fromstring(svg)  # well-formed, so everything was escaped
  text = "".join(root.itertext())
  for expected in ("Errors <b>", "A & B 4", "mean mesh 5", "step", "mm"):
    assert expected in text
  assert svg.count('class="level"') == 1


def test_unequal_lengths_are_refused_by_the_curves_name():
  curve = charts.Curve("loss", [1, 2, 3], [1.0, 2.0])
  with pytest.raises(ValueError, match=r"'loss'.*got 2 and 3"):
    charts.svg(charts.Chart("t", "y", [curve]))
