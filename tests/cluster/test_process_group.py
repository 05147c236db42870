"""Processes hear from each other in time, or hear who is missing or differs."""

import pathlib
import runpy
import socket
from concurrent import futures

import numpy as np
import pytest

from metro_jax.cluster import consistency, process_group
from metro_jax.data import mixture
from tests.fixtures.in_memory import InMemory

HERE = pathlib.Path(__file__).parent
Coordinator = runpy.run_path(str(HERE / "coordinator.py"))["Coordinator"]
HOST = socket.gethostname()


def together(monkeypatch, count, work, absent=()):
  """What work(team) gives or raises in every process, as threads of this one."""
  coordinator = Coordinator(count)
  monkeypatch.setattr(process_group, "coordination", lambda: coordinator)

  def one(index):
    here = process_group.Team(index, count, "a test", 20.0)
    return None if index in absent else work(here)

  with futures.ThreadPoolExecutor(count) as pool:
    begun = [pool.submit(one, index) for index in range(count)]
    return [future.exception(60) or future.result() for future in begun]


def test_every_process_gets_all_values_in_order(monkeypatch):
  found = together(monkeypatch, 3, lambda t: t.gather("numbers", [t.index, None]))
  assert found == [[[0, None], [1, None], [2, None]]] * 3


def test_the_first_ones_value_is_everybodys(monkeypatch):
  assert together(monkeypatch, 3, lambda t: t.share("x", 7 + t.index)) == [7] * 3


def test_those_who_do_not_come_in_time_are_named(monkeypatch):
  found = together(monkeypatch, 3, lambda t: t.meet("saving", 0.5), absent=(1,))
  for index in (0, 2):
    assert isinstance(found[index], process_group.LostProcessError)
    assert str(found[index]) == (
      f"saving: expected all 3 processes within 0 s, missing process 1 ({HOST})"
    )


def test_processes_that_are_not_at_the_same_place_are_told(monkeypatch):
  found = together(monkeypatch, 2, lambda t: t.meet("ab"[t.index]))
  assert all(isinstance(error, process_group.MismatchError) for error in found)
  assert f"process 1 ({HOST}): expected to meet at 'a', got 'b'" in str(found[0])


def test_all_are_told_who_differs_and_in_what(monkeypatch):
  def work(t):
    values = {"seed": 5 if t.index == 2 else 0, "widths": (1, 2), "code": "abc"}
    t.expect_same("settings", values | ({"new": 1} if t.index == 1 else {}))

  for error in together(monkeypatch, 3, work):
    assert isinstance(error, process_group.MismatchError)
    assert str(error).split("\n") == [
      f"settings: expected what process 0 ({HOST}) has on all 3 processes, got",
      f"  process 1 ({HOST}): new is 1, expected 'nothing'",
      f"  process 2 ({HOST}): seed is 5, expected 0",
    ]


def test_equal_settings_pass(monkeypatch):
  values = {"widths": (1, 2), "rate": 0.1, "name": "x"}
  work = lambda t: t.expect_same("settings", values)  # noqa: E731
  assert together(monkeypatch, 3, work) == [None] * 3


def test_a_process_alone_waits_for_nobody():
  alone, tree = process_group.Team(), {"a": np.ones(2)}
  assert alone.is_first
  assert alone.gather("x", 3) == [3]
  assert alone.share("x", 3) == 3
  assert alone.spread(tree) is tree
  alone.meet("x")
  alone.expect_same("x", {"a": 1})


def test_the_codes_hash_follows_content_and_names(tmp_path):
  (tmp_path / "a.py").write_text("x = 1\n")
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / "c.py").write_text("y = 2\n")
  first = consistency.code_hash(tmp_path)
  (tmp_path / "notes.txt").write_text("no code")
  assert consistency.code_hash(tmp_path) == first
  (tmp_path / "b" / "c.py").write_text("y = 3\n")
  changed = consistency.code_hash(tmp_path)
  (tmp_path / "b" / "c.py").rename(tmp_path / "b" / "d.py")
  assert len({first, changed, consistency.code_hash(tmp_path)}) == 3


def test_what_a_machine_has_for_itself_is_not_compared():
  from metro_jax import config as base

  config = base.get_config()
  before = consistency.setup(config)
  config.data.data_dir = "/elsewhere"
  assert consistency.setup(config) == before
  config.optimizer.learning_rate = 0.5
  differ = {k for k, v in consistency.setup(config).items() if v != before[k]}
  assert differ == {"config.optimizer.learning_rate"}


@pytest.mark.parametrize("key", ["config.seed", "version of jax", "code of metro_jax"])
def test_settings_versions_and_code_are_compared(key):
  from metro_jax import config as base

  assert key in consistency.setup(base.get_config())


def split(name, labels, image=b""):
  """Makes rows of labels; pictures are somebody's own."""
  return InMemory(name, [{"key": "x", "image": image, "pose": row} for row in labels])


def test_processes_with_other_labels_of_equal_number_are_told(monkeypatch):
  labels = np.arange(30, dtype=np.float32).reshape(10, 3)
  other = labels.copy()
  other[7, 1] += 1e-3

  def work(t):
    mine = other if t.index == 1 else labels.copy()
    people = split("people/train", mine, bytes([t.index]))  # other pictures are none
    t.expect_same("data", consistency.data([people, split("synthetic/test", mine)]))

  found = together(monkeypatch, 3, work)
  assert all(isinstance(error, process_group.MismatchError) for error in found)
  assert "labels of people/train" in str(found[0])
  assert "synthetic" not in str(found[0])


def test_labels_of_every_part_of_a_mixture_are_compared():
  parts = [split(name, np.ones((3, 3))) for name in ("a/train", "b/train")]
  before = consistency.data([mixture.Mixture(parts)])
  parts[1][2]["pose"] = np.zeros(3)
  after = consistency.data([mixture.Mixture(parts)])
  assert {k for k in after if after[k] != before[k]} == {"labels of b/train"}
