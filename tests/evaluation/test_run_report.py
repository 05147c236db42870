import html
import json
import math

import numpy as np

from metro_jax import config as base
from metro_jax.evaluation import protocols, run_report
from metro_jax.evaluation.assessment import Assessment
from metro_jax.evaluation.evaluator import Results
from metro_jax.training import goodput, logs

LINES = [
  {
    "step": 10,
    "group": "train",
    "loss": 2.0,
    "vertices": 0.5,
    "images_per_second": 8.0,
  },
  {
    "step": 20,
    "group": "train",
    "loss": 1.0,
    "vertices": 0.25,
    "images_per_second": 4.0,
  },
  {"step": 20, "group": "validation", "mpjpe_mm": 90.0, "pa_mpjpe_mm": 60.0},
]


def assessment():
  def made_up(mpvpe, mpjpe, pa):
    means = {"mpjpe_mm": mpjpe, "mpvpe_mm": mpvpe, "pa_mpjpe_mm": pa}
    means["pa_mpvpe_mm"] = 99.0
    return Results(means, 321, np.zeros(0, np.int64), {}, {})

  return Assessment(
    "test", made_up(80.0, 70.0, 50.0), made_up(200.0, 140.0, 100.0), protocols.SYNTHETIC
  )


def test_curves_follow_the_log_and_carry_the_baseline():
  loss, validation, speed = run_report.curves(LINES, assessment().baseline.means_mm)
  assert [curve.label for curve in loss.curves] == ["total, weighted", "vertices"]
  assert list(loss.curves[1].steps) == [10, 20]
  assert list(loss.curves[1].values) == [0.5, 0.25]
  assert [curve.label for curve in validation.curves] == ["MPJPE", "PA-MPJPE"]
  levels = {level.curve: level.value for level in validation.levels}
  assert levels == {"MPVPE": 200, "MPJPE": 140, "PA-MPJPE": 100}
  assert list(speed.curves[0].values) == [8.0, 4.0]


def test_a_mixtures_datasets_have_curves_of_their_own():
  lines = [
    {"step": 10, "group": "train", "loss": 2.0, "a/train/loss": 3.0},
    {"step": 20, "group": "train", "loss": 2.0, "a/train/loss": 2.0}
    | {"b/train/loss": 1.0, "b/train/mpjpe_mm": 80.0},
  ]
  *_, loss, error = run_report.curves(lines, assessment().baseline.means_mm)
  assert loss.title == "Training loss by dataset"
  assert [curve.label for curve in loss.curves] == ["a/train", "b/train"]
  assert list(loss.curves[0].values) == [3.0, 2.0]
  assert list(loss.curves[1].steps) == [20]
  assert [curve.label for curve in error.curves] == ["b/train"]


def test_the_report_says_how_time_and_devices_were_used(tmp_path):
  spent = dict.fromkeys(goodput.KINDS, 0.0) | {"steps": 45.0, "restarts": 5.0}
  lines = [
    LINES[0] | {"learning_rate": 1e-3, "flops_per_second": 2e12, "share_of_peak": 0.25},
    LINES[1] | {"learning_rate": 1e-4, "flops_per_second": 4e12, "share_of_peak": 0.5},
    LINES[2] | {"time": 1010.0},
  ]
  lines[1] |= {"time": 1000.0, **{f"seconds/{k}": s for k, s in spent.items()}}
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / logs.METRICS_FILE).write_text(text)
  path = run_report.write(tmp_path, base.get_config(), assessment(), [], 20, {})
  page = path.read_text()
  assert "3 TFLOP/s (median), 38% of the devices' peak" in html.unescape(page)
  # The validation that came last took the ten seconds to its own line.
  assert "01:00: steps 75%, input 0%, validation 17%, saving 0%" in page
  charts = run_report.curves(lines, assessment().baseline.means_mm)
  (rate,) = (chart for chart in charts if chart.title == "Learning rate")
  assert list(rate.curves[0].values) == [1e-3, 1e-4]


def test_the_report_says_errors_protocol_facts_and_config(tmp_path):
  text = "".join(json.dumps(line) + "\n" for line in LINES)
  (tmp_path / logs.METRICS_FILE).write_text(text)
  path = run_report.write(
    tmp_path, base.get_config(), assessment(), [], 20, {"Duration": "3 min"}
  )
  page = path.read_text()
  assert path == tmp_path / "report.html"
  for expected in (
    "321 test examples, after step 20 of 260,000",
    "70.0<small>mm",
    "140.0<small>mm",
    "PA-MPVPE",
    "99.0<small>mm",
    "\u221250 %",  # 70 against 140
    "the middle of R_Hip and L_Hip",
    "<dd>3 min</dd>",
    "6.0 images/s (median)",
    "--config.optimizer.learning_rate=0.0001",
  ):
    assert expected in page, expected


def test_a_metric_without_a_value_does_not_stop_the_report(tmp_path):
  (tmp_path / logs.METRICS_FILE).write_text("")
  done = assessment()
  done.results.means["mpvpe_mm"] = math.nan
  page = run_report.write(tmp_path, base.get_config(), done, [], 1, {}).read_text()
  assert "Nothing recorded" in page
