"""The log of a process that leaves writing to another one."""

import numpy as np

from metro_jax.training.logs import RunLog


def test_a_log_that_is_not_enabled_writes_and_prints_nothing(tmp_path, capsys):
  with RunLog(tmp_path, 0, 10, 2, enabled=False) as log:
    log.tick(1)
    log.train(1, {"loss": 0.5})
    log.pause()
    log.resume()
    log.scalars(1, "validation", {"pa_mpjpe_mm": 50.0})
    log.picture(1, "examples", np.zeros((4, 4, 3), np.uint8))
    log.say("step 1")
  assert list(tmp_path.iterdir()) == []
  assert capsys.readouterr() == ("", "")
