"""Where the time went, by a clock of its own."""

import json

import pytest

from metro_jax.training import goodput
from metro_jax.training.goodput import Goodput, Work
from metro_jax.training.logs import RunLog, read_metrics


class Clock:
  """Stands still until it is told to go on."""

  now = 1000.0

  def __call__(self):
    return self.now

  def go_on(self, seconds):
    self.now += seconds


def test_what_nothing_else_claims_is_for_steps():
  clock = Clock()
  counted = Goodput(clock=clock)
  clock.go_on(1.0)
  with counted.during("input"):
    clock.go_on(2.0)
  with counted.during("compiling"):
    clock.go_on(4.0)
  clock.go_on(8.0)
  with pytest.raises(KeyError), counted.during("validation"):
    clock.go_on(5.0)
    raise KeyError
  assert counted.values() == {
    "goodput": 9 / 20,
    "seconds/steps": 9.0,
    "seconds/input": 2.0,
    "seconds/validation": 5.0,
    "seconds/saving": 0.0,
    "seconds/compiling": 4.0,
    "seconds/restarts": 0.0,
  }


def test_a_run_that_goes_on_counts_from_the_last_line_it_keeps():
  clock = Clock()
  counted = Goodput(clock=clock)
  clock.go_on(10.0)
  line = {"step": 4, "group": "train", "time": clock.now, **counted.values()}
  validated = {"step": 4, "group": "validation", "time": clock.now + 3.0}
  clock.go_on(3.0 + 100.0)  # was down, and started
  again = Goodput([line, validated], clock)
  clock.go_on(7.0)
  found = again.values()
  assert found["seconds/steps"] == 17.0
  assert found["seconds/validation"] == 3.0
  assert found["seconds/restarts"] == 100.0
  assert found["goodput"] == 17 / 120


def test_a_file_of_a_run_that_counted_nothing_begins_at_zero():
  clock = Clock()
  old = [{"step": 4, "group": "train"}, {"step": 4, "group": "validation"}]
  counted = Goodput(old, clock)
  clock.go_on(1.0)
  assert counted.values()["seconds/restarts"] == 0.0
  assert counted.values()["goodput"] == 1.0


def test_a_clock_that_is_set_back_takes_nothing_away():
  clock = Clock()
  counted = Goodput(clock=clock)
  clock.go_on(-5.0)
  clock_values = counted.values()
  assert clock_values["seconds/steps"] == 0.0
  assert clock_values["goodput"] == 0.0


def test_speed_is_operations_an_image_times_images_a_second():
  assert goodput.UNKNOWN.speed(50.0) == {}
  assert Work(2e9, 0.0).speed(50.0) == {"flops_per_second": 1e11}
  assert Work(2e9, 4e11).speed(50.0)["share_of_peak"] == 0.25
  assert goodput.flops_text(1e11) == "100 GFLOP/s"
  assert goodput.flops_text(2.345e12) == "2.35 TFLOP/s"


def test_a_log_says_them_in_its_line_and_keeps_them_over_a_start(tmp_path, capsys):
  metrics = {"loss": 1.0, "learning_rate": 1e-4, **Goodput(clock=Clock()).values()}
  with RunLog(tmp_path, 0, 4, 8) as log:
    log.work = Work(2e9, 4e18)
    log.train(2, metrics)
  printed = capsys.readouterr().out
  assert printed.startswith("step 2/4: loss 1.0000, ")
  assert ", learning rate 0.0001, " in printed and "FLOP/s (" in printed
  assert "% of the peak), 0% of the time in steps, " in printed
  with RunLog(tmp_path, 2, 4, 8):
    (line,) = read_metrics(tmp_path)
  assert line["flops_per_second"] == pytest.approx(2e9 * line["images_per_second"])
  seconds, since = goodput.spent([line])
  assert since == line["time"] > 1.7e9  # seconds since the epoch
  assert seconds == dict.fromkeys(goodput.KINDS, 0.0)
  assert json.loads((tmp_path / "metrics.jsonl").read_text()) == line
