"""A start in a workdir: what it says, refuses and keeps."""

import json

import pytest

from metro_jax import config as base
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.checkpoints.run_checkpoints import Start
from metro_jax.evaluation import restarts, run_report
from metro_jax.training import logs


def a_config(**train):
  config = base.get_config()
  config.train.update(
    {"num_steps": 100, "validate_every": 30, "checkpoint_every": 20, **train}
  )
  return config


def stored(config):
  """As a checkpoint holds it."""
  return json.loads(json.dumps(config.to_dict()))


def test_settings_that_differ_are_named_and_those_that_json_changed_are_not():
  config, before = a_config(), stored(a_config())
  assert restarts.differences(config, before) == {}
  del before["optimizer"]["clip_norm"]  # of a version that did not know it
  assert restarts.differences(config, before) == {}
  config.optimizer.learning_rate = 0.1
  config.optimizer.clip_norm = 2.0
  assert restarts.differences(config, before) == {
    "optimizer.learning_rate": (1e-4, 0.1),
    "optimizer.clip_norm": (0.0, 2.0),
  }


def test_going_on_with_other_settings_says_which_and_keeps_the_report(tmp_path, capsys):
  (tmp_path / run_report.FILE).write_text("of step 6")
  start = Start({}, 6, None, stored(a_config()))
  config = a_config()
  config.optimizer.learning_rate = 0.1
  with RunFolder(tmp_path) as folder:
    restarts.go_on(folder, config, start)
  printed = capsys.readouterr().out
  assert f"Going on from step 6 in {tmp_path}\n" in printed
  assert "\n  optimizer.learning_rate: 0.1, was 0.0001\n" in printed
  assert not (tmp_path / run_report.FILE).exists()
  assert (tmp_path / "report.1.html").read_text() == "of step 6"


def test_what_earlier_steps_were_made_with_is_kept_across_starts():
  config, before = a_config(), stored(a_config())
  assert restarts.earlier(config, Start({}, 0, None)) == []
  assert restarts.earlier(config, Start({}, 6, None, before)) == []
  config.optimizer.learning_rate = 0.1
  first = restarts.earlier(config, Start({}, 6, None, before))
  assert first == [{"until": 6, "optimizer.learning_rate": 1e-4}]
  again = restarts.earlier(config, Start({}, 12, None, stored(config), first))
  assert again == first
  assert restarts.facts(first) == {"Until step 6": "optimizer.learning_rate=0.0001"}


# Saves are due at steps 20, 30, 40 ...: what is logged beyond 30 was once saved.
@pytest.mark.parametrize(("logged", "refused"), [(10, False), (30, False), (31, True)])
def test_a_run_begins_again_only_if_nothing_was_saved(tmp_path, logged, refused):
  (tmp_path / logs.METRICS_FILE).write_text(f'{{"step": 5}}\n{{"step": {logged}}}\n')
  with RunFolder(tmp_path) as folder:
    if not refused:
      restarts.expect_unused(folder, a_config())
      return
    with pytest.raises(ValueError, match=r"metrics.jsonl to step 31.*--start_over"):
      restarts.expect_unused(folder, a_config())
    restarts.set_aside(folder)
    restarts.expect_unused(folder, a_config())
  assert len((tmp_path / "metrics.1.jsonl").read_text().splitlines()) == 2


def test_a_report_is_of_a_run_that_had_checkpoints(tmp_path):
  (tmp_path / run_report.FILE).write_text("x")
  match = r"beside report.html, found none"
  with RunFolder(tmp_path) as folder, pytest.raises(ValueError, match=match):
    restarts.expect_unused(folder, a_config())
