"""A lost process and input that hangs are noticed."""

import pathlib
import runpy
import socket
import threading

import pytest

from metro_jax.cluster import process_group, watch

HERE = pathlib.Path(__file__).parent
Coordinator = runpy.run_path(str(HERE / "coordinator.py"))["Coordinator"]
HOST = socket.gethostname()


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def watches(monkeypatch):
  """The watches of three processes, their threads not started, and their clock."""
  coordinator, clock = Coordinator(3), Clock()
  monkeypatch.setattr(watch, "coordination", lambda: coordinator)
  monkeypatch.setattr(watch.time, "monotonic", clock)
  monkeypatch.setattr(
    process_group.Team, "gather", lambda self, what, value: [HOST] * 3
  )
  return [watch.Watch(process_group.Team(index, 3)) for index in range(3)], clock


def look(watches, clock, indices, beat):
  clock.now += watch.POLL_S
  return [watches[index]._look(str(beat)) for index in indices]


def test_while_all_live_nothing_happens(watches):
  all_three, clock = watches
  for beat in range(100):
    assert look(all_three, clock, (0, 1, 2), beat) == [None] * 3


def test_a_silent_process_is_named_to_all_within_a_minute(watches):
  all_three, clock = watches
  for beat in range(5):
    look(all_three, clock, (0, 1, 2), beat)
  heard = clock.now
  for beat in range(5, 100):
    found = look(all_three, clock, (0, 2), beat)
    if found[0]:
      break
  assert 30 < clock.now - heard < 50
  expected = f"process 1 ({HOST}) stopped: not heard of for"
  assert found[0].startswith(expected)
  assert look(all_three, clock, (2,), 100)[0].startswith(expected)


def test_a_process_that_never_came_is_silent_too(watches):
  all_three, clock = watches
  for beat in range(30):
    found = look(all_three, clock, (0, 1), beat)
  assert found[0].startswith(f"process 2 ({HOST}) stopped")


def test_after_a_broken_connection_the_lost_process_is_named_sooner(
  watches, monkeypatch
):
  all_three, clock = watches
  first = all_three[0]
  for beat in range(5):
    look(all_three, clock, (0, 1, 2), beat)
  monkeypatch.setattr(first._done, "wait", lambda seconds: None)
  first._end_with(ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset"))
  heard = clock.now
  while not look(all_three, clock, (0,), clock.now)[0]:
    pass
  assert 10 < clock.now - heard < 20


def test_why_a_process_ends_is_told_to_the_others(watches):
  all_three, clock = watches
  all_three[2]._end_with(OSError("disk full"))
  found = look(all_three, clock, (0, 1), 0)
  assert found == [f"process 2 ({HOST}) stopped: OSError: disk full"] * 2


def test_leaving_finishes_the_save_and_says_what_to_do(watches, monkeypatch, capsys):
  all_three, _ = watches
  codes, saved = [], []
  monkeypatch.setattr(watch, "leave", codes.append)
  all_three[1]._team.before_end = lambda: saved.append(True)
  all_three[1]._leave("process 2 (b) stopped: not heard of")
  assert (codes, saved) == ([1], [True])
  text = capsys.readouterr().err
  assert text == (
    f"process 1 ({HOST}) stops: process 2 (b) stopped: not heard of. Start all "
    "processes again to go on from the last checkpoint\n"
  )


def describe(number):
  return f"batch {number} of x"


@pytest.mark.parametrize("limit_s", [0.0, 60.0])
def test_batches_come_as_they_are_and_in_order(limit_s):
  assert list(watch.in_time(iter(range(50)), limit_s, describe)) == list(range(50))


def test_an_error_of_the_input_arrives_where_it_is_read():
  def failing():
    yield 1
    raise ValueError("x row 7: damaged")

  batches = watch.in_time(failing(), 60.0, describe)
  assert next(batches) == 1
  with pytest.raises(ValueError, match="x row 7: damaged"):
    next(batches)


def test_input_that_hangs_is_named():
  released = threading.Event()

  def hanging():
    yield from (0, 1)
    released.wait()

  batches = watch.in_time(hanging(), 0.2, describe)
  assert [next(batches), next(batches)] == [0, 1]
  with pytest.raises(watch.StalledError) as caught:
    next(batches)
  released.set()
  assert str(caught.value) == (
    "input pipeline: expected batch 2 of x within 0.2 s "
    "(config.train.stall_limit_s), got nothing; its storage may hang"
  )


def test_a_reader_that_stops_early_ends_the_thread():
  batches = watch.in_time(iter(range(1000)), 60.0, describe)
  next(batches)
  batches.close()
  left = [t for t in threading.enumerate() if t.name == "batches"]
  for thread in left:
    thread.join(10)
    assert not thread.is_alive()
