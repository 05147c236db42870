"""A run's log is written by one process alone."""

import numpy as np
import pytest

from metro_jax.training.logs import METRICS_FILE, RunLog


@pytest.mark.parametrize("enabled", [True, False])
def test_only_the_process_that_is_to_write_leaves_files_and_says_something(
  tmp_path, capsys, enabled
):
  with RunLog(tmp_path, 0, 10, 4, enabled=enabled) as log:
    log.tick(1)
    log.train(1, {"loss": 2.0})
    log.pause()
    log.scalars(1, "validation", {"mpjpe_mm": 50.0})
    log.picture(1, "validation", np.zeros((8, 8, 3), np.uint8))
    log.resume()
    log.say("validated")
  assert (tmp_path / METRICS_FILE).exists() == enabled
  assert any(tmp_path.iterdir()) == enabled
  said = capsys.readouterr().out
  assert ("step 1/10: loss 2.0000" in said and "validated" in said) == enabled
