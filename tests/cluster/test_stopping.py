"""SIGTERM ends a run wherever it is, and the next start does what it did not."""

import contextlib
import importlib.util
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
from concurrent import futures

import jax
import numpy as np
import pytest

from metro_jax import train as command
from metro_jax.checkpoints import checkpoint
from metro_jax.cluster import process_group, stopping
from metro_jax.cluster.stopping import Stopped, StopRequest
from metro_jax.data.builders import prepared, shards
from metro_jax.evaluation import baseline, evaluator
from metro_jax.models import setup

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = ROOT / "configs" / "synthetic.py"
Coordinator = runpy.run_path(str(HERE / "coordinator.py"))["Coordinator"]


def ask() -> None:
  os.kill(os.getpid(), signal.SIGTERM)


def test_where_nothing_is_held_a_request_ends_the_work():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Stopped), StopRequest() as request:
    request.share(process_group.ProcessGroup())
    ask()
    time.sleep(30)
  assert signal.getsignal(signal.SIGTERM) == before


class Destroyed:
  def __del__(self):
    ask()


def test_a_request_that_comes_in_a_destructor_or_is_swallowed_is_not_lost():
  with pytest.raises(Stopped), StopRequest() as request:
    request.share(process_group.ProcessGroup())
    Destroyed()
    with contextlib.suppress(Stopped):
      time.sleep(30)
    time.sleep(30)


def test_what_is_cleaned_up_meanwhile_is_not_interrupted_again():
  cleaned = []
  with pytest.raises(Stopped), StopRequest() as request:
    request.share(process_group.ProcessGroup())
    try:
      ask()
    finally:
      with contextlib.suppress(ValueError):
        raise ValueError("while cleaning up")
      time.sleep(2.5 * stopping.POLL_S)
      cleaned.append(True)
  assert cleaned


def test_what_is_held_is_asked_before_it_ends():
  with StopRequest() as request:
    request.share(process_group.ProcessGroup())
    request.hold()
    assert not request.due()
    ask()
    assert request.due()
    with pytest.raises(Stopped):
      request.release()


def test_a_request_before_the_processes_are_known_waits_for_them():
  with StopRequest() as request:
    ask()
    with pytest.raises(Stopped):
      request.share(process_group.ProcessGroup())


@pytest.fixture
def three(monkeypatch):
  """The requests of three processes, as threads that no signal reaches."""
  coordinator = Coordinator(3)
  monkeypatch.setattr(stopping, "coordination", lambda: coordinator)
  monkeypatch.setattr(
    process_group.ProcessGroup, "all_gather", lambda self, what, value: ["here"] * 3
  )
  monkeypatch.setattr(stopping, "POLL_S", 0.01)
  with futures.ThreadPoolExecutor(3) as pool:

    def in_each(work):
      """Calls `work(index, request)` as every process at once; what they gave."""

      def one(index):
        with StopRequest() as request:
          request.share(process_group.ProcessGroup(index, 3))
          return work(index, request)

      return [f.result(30) for f in [pool.submit(one, i) for i in range(3)]]

    yield in_each


def test_processes_stop_at_the_same_place_whichever_was_asked_and_when(three):
  def steps(index, request):
    for step in range(1, 1000):
      request.hold()
      if index == 1 and step == 20:
        request._asked = True
      if request.due():
        return step
      time.sleep(0.001 * (index + 1))  # none waits for another here
    return None

  first, *others = three(steps)
  assert first is not None
  assert others == [first] * 2


def test_if_one_process_holds_nothing_all_end_at_once(three):
  def work(index, request):
    if index == 1:
      request._asked = True
      while not request.ends_at_once():
        time.sleep(0.01)
      return "ended"
    request.hold()
    try:
      while not request.due():
        time.sleep(0.01)
    except Stopped:
      return "ended"
    return "saved"

  assert three(work) == ["ended"] * 3


def test_processes_that_reach_the_end_of_what_they_hold_end_there(three):
  def work(index, request):
    request.hold()
    request.due()
    request._asked = True
    try:
      request.release()
      while not request.ends_at_once():
        time.sleep(0.01)
    except Stopped:
      pass
    return "ended"

  assert three(work) == ["ended"] * 3


BUSY = """
import hashlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup` has it ignored
from metro_jax.cluster import stopping, process_group
stopping.PATIENCE_S = {patience}
with stopping.StopRequest(75) as request:
  request.share(process_group.ProcessGroup())
  {held}
  print("here", flush=True)
  {work}
"""

# One call of the interpreter that lasts for minutes and lets other threads run.
DEAF = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2**31 - 1)"


def ended(signals, apart_s, **text) -> tuple[int, float]:
  """Exit code of a busy process that got signals, and seconds since the first."""
  code = BUSY.format(**text)
  with subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
  ) as process:
    assert process.stdout.readline() == b"here\n"
    time.sleep(0.3)  # until it is at its work
    start = time.monotonic()
    for number in signals:
      process.send_signal(number)
      time.sleep(apart_s)
    try:
      return process.wait(30), time.monotonic() - start
    finally:
      process.kill()


def test_a_process_that_does_not_listen_is_ended_with_the_code():
  text = {"held": "", "work": DEAF, "patience": 0.5}
  code, seconds = ended([signal.SIGTERM], 0, **text)
  assert code == 75
  assert 0.5 < seconds < 10


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_at_once(second):
  text = {"held": "request.hold()", "work": DEAF, "patience": 60}
  code, seconds = ended([signal.SIGTERM, second], 1.2, **text)
  assert code == 128 + second
  assert seconds < 10


def test_one_request_may_arrive_twice():
  work = "time.sleep(2); sys.exit(3 if request.due() else 4)"
  text = {"held": "request.hold()", "work": work, "patience": 60}
  assert ended([signal.SIGTERM] * 2, 0.1, **text)[0] == 3


def test_a_request_to_a_command_that_is_being_imported_is_answered(tmp_path):
  command_line = [
    *(sys.executable, "-m", "metro_jax.train", f"--config={CONFIG}:tiny"),
    *(f"--workdir={tmp_path}", "--stopped_exit_code=75"),
  ]
  with subprocess.Popen(command_line, cwd=ROOT, stderr=subprocess.PIPE) as process:
    status = pathlib.Path(f"/proc/{process.pid}/status")
    kept = f"SigBlk:\t{1 << (signal.SIGTERM - 1):016x}\n"
    while kept not in status.read_text():
      time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1].endswith(b"the same command goes on\n")
    assert process.returncode == 75
  assert not list(tmp_path.iterdir())


# The whole command, in this process.


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
  """Makes configs of a run of a tiny network, and takes every compilation once."""
  patch = pytest.MonkeyPatch()
  patch.setattr(sys, "path", [str(HERE.parent / "fixtures"), *sys.path])
  build = runpy.run_path(str(HERE.parent / "fixtures" / "in_processes.py"))["build"]
  patch.setattr(setup, "build", build)
  # Starts of the same run in one process, which compiles once.
  for owner, name in (
    (command.states, "create"),
    (command.steps, "make_train_step"),
    (command.parallel, "map_step"),
    (command.evaluator, "map_eval_step"),
  ):
    patch.setattr(owner, name, made_once(getattr(owner, name)))
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)

  def make(data_dir):
    config = module.get_config("tiny")
    config.data.data_dir = str(data_dir)
    config.data.synthetic.workers = 1
    config.eval.batch_size = 2
    config.optimizer.frozen = ()
    config.train.num_steps = 6
    config.train.log_every = 1
    config.train.validate_every = config.train.checkpoint_every = 2
    config.train.pictures = 1
    return config

  yield make
  patch.undo()


def made_once(make):
  """The same, for calls that agree in the kind of what they are first given."""
  made = {}

  def once(first, *others, **named):
    key = first if callable(first) and not hasattr(first, "apply") else type(first)
    if key not in made:
      made[key] = make(first, *others, **named)
    return made[key]

  return once


@pytest.fixture(scope="module")
def undisturbed(stand_in, tmp_path_factory):
  """The data and the folder of a run that nobody asked to stop."""
  data_dir = tmp_path_factory.mktemp("data")
  workdir = tmp_path_factory.mktemp("undisturbed")
  assert command.train(stand_in(data_dir), workdir)
  return data_dir, workdir


def expect_same_run(ours: pathlib.Path, theirs: pathlib.Path) -> None:
  """Checkpoints to the bit, every step and validation once, and the same errors."""
  for which in ("best", "latest"):
    a, b = (
      checkpoint.restore_variables(workdir / "checkpoints", which)
      for workdir in (ours, theirs)
    )
    assert a.step == b.step
    assert a.meta["metrics"] == b.meta["metrics"]
    jax.tree.map(np.testing.assert_array_equal, a.tree, b.tree)
  assert logged(ours) == logged(theirs)
  tests = [json.loads((w / "eval" / "test.json").read_text()) for w in (ours, theirs)]
  assert tests[0] == tests[1]
  assert (ours / "report.html").exists()


def logged(workdir: pathlib.Path) -> list[dict]:
  """The logged numbers, without those that depend on the machine."""
  text = (workdir / "metrics.jsonl").read_text()
  found = [json.loads(line) for line in text.splitlines()]
  timed = ("time", "images_per_second", "flops_per_second", "goodput", "seconds/")
  return [{k: v for k, v in x.items() if not k.startswith(timed)} for x in found]


# Where the request comes: the call, by its number since the start, and the last step
# that the next start finds.
MOMENTS = (
  (shards._Worker, "write", 2, None),
  (prepared, "_finish", 1, None),
  (command.setup, "build", 1, None),
  (command.RunCheckpoints, "start", 1, None),
  (command.MetricWindow, "add", 1, None),  # a step is in the making, none is made
  (command.MetricWindow, "add", 2, 2),  # its validation is due
  (evaluator.metrics, "means", 1, 2),  # at the end of the validation that was due
  (evaluator.gathering, "gather_examples", 1, 2),
  (command.MetricWindow, "add", 1, 2),
  (command.MetricWindow, "add", 2, 4),
  (command.validation.examples, "draw", 1, 4),
  (evaluator.parallel, "unshard", 2, 4),
  (command.RunCheckpoints, "add_metrics", 1, 4),
  (command.MetricWindow, "add", 2, 6),
  (evaluator.parallel, "unshard", 1, 6),
  (command.run_end, "read_best", 1, 6),
  (baseline, "mean_mesh_baseline", 1, 6),
  (command.run_end.run_report, "write", 1, 6),
)


def test_asked_anywhere_a_run_stops_and_ends_as_if_it_had_not(
  stand_in, undisturbed, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  for owner, name, number, step in MOMENTS:
    original, calls = getattr(owner, name), []

    def asking(*arguments, original=original, calls=calls, number=number, **named):
      calls.append(None)
      if len(calls) == number:
        ask()
      return original(*arguments, **named)

    where = f"{owner.__name__}.{name}, call {number}"
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, asking)
      with contextlib.suppress(Stopped):
        assert command.train(stand_in(tmp_path / "data"), workdir) is False, where
    assert len(calls) >= number, where
    assert latest(workdir) == step, where
    assert not (workdir / "report.html").exists(), where
  assert command.train(stand_in(tmp_path / "data"), workdir) is True
  expect_same_run(workdir, undisturbed[1])


def latest(workdir: pathlib.Path) -> int | None:
  folder = workdir / "checkpoints"
  steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
  return max(steps, default=None)
