"""Runs in a bucket: the same commands, with gs:// addresses, against a stand-in."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import runpy
import shutil
import sys
import tempfile
import time
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest

from metro_jax import convert, evaluate, export, outputs, predict
from metro_jax import train as command
from metro_jax.checkpoints import bucket, checkpoint
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.models import setup
from metro_jax.weights import torch_metro, weight_files

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
PROGRAM = runpy.run_path(str(HERE.parent / "fixtures" / "in_processes.py"))
CONFIG = ROOT / "configs" / "synthetic.py"
FAKE = runpy.run_path(str(ROOT / "tests" / "fixtures" / "fake_bucket.py"))
BUILD = setup.build
RUN, FOLDER = "gs://bucket/run", "run/"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """A bucket that every client of this process and those it starts are sent to."""
  if importlib.util.find_spec("gcsfs") is None:
    pytest.skip("needs the extra gcs")
  with FAKE["Bucket"]() as made, pytest.MonkeyPatch.context() as patch:
    for name, value in made.environment.items():
      patch.setenv(name, value)
    patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
    patch.syspath_prepend(HERE.parent / "fixtures")
    patch.setattr(setup, "build", PROGRAM["build"])
    bucket.expect_usable(RUN)
    yield made


@pytest.fixture
def storage(served):
  """What is in the bucket; emptied of this test's folder before."""
  for name in served.storage.names("small/"):
    del served.storage.objects[name]
  return served.storage


def scratch() -> list[str]:
  return [x for x in os.listdir(tempfile.gettempdir()) if x.startswith("metro_jax-")]


def tiny_config(data_dir):
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("tiny")
  config.data.data_dir = str(data_dir)
  config.data.read_threads = 1
  config.optimizer.frozen = ()
  return config


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Of the pictures; what was compiled once is kept for the other runs."""
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
  values = (str(tmp_path_factory.mktemp("compiled")), 0.0)
  with contextlib.ExitStack() as stack:
    for name, value in zip(names, values, strict=True):
      stack.callback(jax.config.update, name, getattr(jax.config, name))
      jax.config.update(name, value)
    yield tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def interrupted(served, data_dir):
  """A run of six steps that was interrupted in its fifth and went on; its lines."""
  add, seen = command.Window.add, []

  def stop_in_the_fifth_step(self, metrics):
    seen.append(metrics)
    if len(seen) == 5:
      raise KeyboardInterrupt
    add(self, metrics)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(command.Window, "add", stop_in_the_fifth_step)
    with pytest.raises(KeyboardInterrupt):
      command.train(tiny_config(data_dir), RUN)
  before = served.storage.read(FOLDER + "metrics.jsonl").decode()
  assert [json.loads(line)["step"] for line in before.splitlines()] == [2, 3, 3, 4]
  assert command.train(tiny_config(data_dir), RUN)
  return served.storage


@pytest.mark.slow
def test_an_interrupted_run_in_a_bucket_goes_on_and_ends_as_a_local_one(
  interrupted, data_dir, tmp_path
):
  command.train(tiny_config(data_dir), tmp_path)
  ours, theirs = (
    checkpoint.restore_variables(f"{folder}/checkpoints", "latest")
    for folder in (RUN, tmp_path)
  )
  assert ours.step == theirs.step == 6
  jax.tree.map(np.testing.assert_array_equal, ours.tree, theirs.tree)
  text = interrupted.read(FOLDER + "metrics.jsonl").decode()
  local = (tmp_path / "metrics.jsonl").read_text()
  steps = [[json.loads(x)["step"] for x in y.splitlines()] for y in (text, local)]
  assert steps[0] == steps[1]
  names = {name.split("/")[1] for name in interrupted.names(FOLDER)}
  assert names == {path.name for path in tmp_path.iterdir()}
  assert json.loads(interrupted.read(FOLDER + "eval/test.json"))["step"] in (3, 6)
  assert b"<html" in interrupted.read(FOLDER + "report.html")
  assert scratch() == []


@pytest.mark.slow
def test_evaluate_predict_and_export_read_and_write_there(
  interrupted, monkeypatch, tmp_path
):
  done = evaluate.evaluate(RUN, "validation", options=evaluate.Options(worst=1))
  stored = json.loads(interrupted.read(FOLDER + "eval/validation.json"))
  assert stored["mpjpe_mm"] == pytest.approx(done.assessment.results.means["mpjpe_mm"])
  notes = f"Written to {RUN}/eval/validation.json", f"{RUN}/eval/validation_worst.jpg"
  assert done.notes[0] == notes[0] and done.notes[1].endswith(notes[1])
  assert interrupted.read(FOLDER + "eval/validation_worst.jpg")[:2] == b"\xff\xd8"
  cv2.imwrite(str(tmp_path / "x.png"), np.full((40, 40, 3), 90, np.uint8))
  given = {"workdir": RUN, "output": None, "checkpoint": "latest"}
  drawing = {"boxes": None, "box_scale": 1.2, "focal_px": 0.0, "hand": "right"}
  monkeypatch.setattr(predict, "FLAGS", SimpleNamespace(**given, **drawing))
  assert predict.main([str(tmp_path / "x.png")]) == 0
  names = {"x.glb", "x.npz", "x.obj", "x_overlay.jpg", outputs.LEDGER}
  assert set(interrupted.names(FOLDER + "predictions/")) == {
    f"{FOLDER}predictions/{name}" for name in names
  }
  how = {"format": "npz", "weights": "last", "parameters": "beside"}
  flags = SimpleNamespace(**given, **how, image_type="uint8")
  monkeypatch.setattr(export, "FLAGS", flags)
  export.main([])
  with np.load(io.BytesIO(interrupted.read(f"{FOLDER}export/npz/parameters.npz"))) as x:
    flat = dict(x)
  latest = checkpoint.restore_variables(f"{RUN}/checkpoints", "latest").tree
  expected = export.flatten(latest)
  assert flat.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(flat[name], value)
  facts = json.loads(interrupted.read(f"{FOLDER}export/npz/model.json"))
  assert facts["step"] == 6 and facts["errors_mm"]["mpjpe_mm"] > 0
  assert scratch() == []


def test_what_predict_did_not_write_there_stays(storage, tmp_path):
  address = "gs://bucket/small/out"
  storage.put("small/out/a.obj", b"the user's")
  storage.put("small/out/empty.obj", b"")
  for text in ("first", "second"):
    with RunFolder(address, fetched=[outputs.LEDGER]) as folder:
      place = outputs.Outputs(folder.local, "predict", folder.address)
      place.expect_free(["b.obj", "empty.obj"])
      with pytest.raises(FileExistsError, match=rf"{address}/a\.obj"):
        place.expect_free(["a.obj"])
      with place.adding() as made:
        (made / "b.obj").write_text(text)
        folder.copy()
        assert not [name for name in storage.names("small/") if "partial" in name]
    assert storage.read("small/out/b.obj") == text.encode()
  assert storage.read("small/out/a.obj") == b"the user's"
  storage.put("small/out/b.obj", b"changed")
  with RunFolder(address, fetched=[outputs.LEDGER]) as folder:
    place = outputs.Outputs(folder.local, "predict", folder.address)
    with pytest.raises(FileExistsError, match=rf"{address}/b\.obj"):
      place.expect_free(["b.obj"])


def test_weights_are_converted_to_a_run_there_and_back(served, monkeypatch, tmp_path):
  monkeypatch.setattr(setup, "build", BUILD)
  config = tiny_config(tmp_path)
  network = setup.build(config)
  shapes = setup.variable_shapes(network, config)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes
  )
  given = torch_metro.to_state_dict(variables)
  weight_files.write(tmp_path / "given.npz", given)
  address = "gs://bucket/converted"
  convert.to_run(config, str(tmp_path / "given.npz"), address)
  convert.to_file(address, tmp_path / "back.npz")
  back = weight_files.read(tmp_path / "back.npz")
  assert back.keys() == given.keys()
  for key, value in given.items():
    np.testing.assert_array_equal(back[key], value)
  with pytest.raises(ValueError, match="without a run, got gs://bucket/converted"):
    convert.to_run(config, str(tmp_path / "given.npz"), address)


def fill(step: int) -> dict[str, np.ndarray]:
  return {"params": np.full(1000, step, np.float32), "more": np.zeros(3)}


def save(checkpoints, step: int, error_mm: float) -> None:
  checkpoints.save(fill(step), step, {"step": step}, {"pa_mpjpe_mm": error_mm})
  checkpoints.wait()


def steps_in(storage) -> set[str]:
  return {name.split("/")[2] for name in storage.names("small/checkpoints/")}


SMALL = "gs://bucket/small/checkpoints"


def test_old_checkpoints_are_pruned_but_not_the_best_or_the_latest(storage):
  with checkpoint.Checkpoints(SMALL, 1) as checkpoints:
    for step, error_mm in enumerate((50.0, 40.0, 60.0, 55.0), 1):
      save(checkpoints, step, error_mm)
    assert checkpoints.steps() == [2, 4]
  assert steps_in(storage) == {"2", "4"}
  found = checkpoint.restore_variables(SMALL, "best")
  assert found.step == 2 and (found.tree["params"] == 2).all()


@pytest.mark.parametrize("kind", ["changed", "cut", "missing"])
def test_a_damaged_checkpoint_is_said_set_aside_and_the_one_before_taken(
  storage, kind, caplog
):
  with checkpoint.Checkpoints(SMALL, 1) as checkpoints:
    save(checkpoints, 1, 40.0)
    save(checkpoints, 2, 50.0)
  names = storage.names("small/checkpoints/2/state/")
  name = max((n for n in names if "/d/" in n), key=lambda n: len(storage.read(n)))
  data = bytearray(storage.read(name))
  data[len(data) // 2] ^= 1
  if kind == "missing":
    del storage.objects[name]
  else:
    storage.put(name, data if kind == "changed" else data[: len(data) // 2])
  assert checkpoint.restore_variables(SMALL, "latest").step == 1
  assert f"checkpoint {SMALL}/2 is damaged" in caplog.text
  with checkpoint.Checkpoints(SMALL, 1) as checkpoints:
    restored = checkpoints.restore(fill(0))
    assert restored.step == 1 and restored.pipeline == {"step": 1}
    save(checkpoints, 3, 45.0)
  assert "set aside as 2.damaged" in caplog.text
  assert steps_in(storage) == {"1", "2.damaged", "3"}


def test_an_unfinished_checkpoint_counts_for_nobody_and_is_removed(storage, caplog):
  with checkpoint.Checkpoints(SMALL, 1) as checkpoints:
    save(checkpoints, 1, 40.0)
    save(checkpoints, 2, 50.0)
  del storage.objects["small/checkpoints/2/commit_success.txt"]
  assert checkpoint.restore_variables(SMALL, "latest").step == 1
  assert steps_in(storage) == {"1", "2"}  # whoever only reads may be wrong
  with checkpoint.Checkpoints(SMALL, 1) as checkpoints:
    assert checkpoints.restore(fill(0)).step == 1
  assert f"checkpoint {SMALL}/2 was never finished; removed" in caplog.text
  assert steps_in(storage) == {"1"}


def test_a_save_that_the_bucket_refuses_leaves_the_one_before(storage):
  with checkpoint.Checkpoints(SMALL, 1) as checkpoints:
    save(checkpoints, 1, 40.0)
    with (
      storage.refusing("small/checkpoints/2/meta"),
      pytest.raises(checkpoint.CheckpointError, match="step 1 is the last good one"),
    ):
      save(checkpoints, 2, 30.0)
    assert checkpoints.steps() == [1]
    assert checkpoint.restore_variables(SMALL, "best").step == 1
    save(checkpoints, 3, 30.0)
  checkpoint.Checkpoints(SMALL, 1).__exit__(None, None, None)
  assert steps_in(storage) == {"3"}


def test_logs_are_there_before_the_checkpoint_that_they_belong_to(storage):
  seen = []
  with RunFolder("gs://bucket/small") as folder:
    (folder.local / "metrics.jsonl").write_text("line\n")

    def copy() -> None:
      folder.copy()
      seen.append(storage.names("small/"))

    with checkpoint.Checkpoints(SMALL, 1, copy) as checkpoints:
      save(checkpoints, 1, 40.0)
  assert seen == [["small/metrics.jsonl"]]


def test_what_cannot_be_copied_is_one_warning_and_comes_later(storage, caplog):
  with RunFolder("gs://bucket/small", fetched=["a.txt", "none.txt"]) as folder:
    assert os.listdir(folder.local) == []
    (folder.local / "deep").mkdir()
    (folder.local / "deep" / "a.txt").write_text("one")
    (folder.local / ".b.txt.1.partial").write_text("half")
    with storage.refusing("small/"):
      folder.copy()
      folder.copy()
    assert storage.names("small/") == []
    warnings = [r for r in caplog.records if "cannot write (" in r.getMessage()]
    assert len(warnings) == 1
    assert "gs://bucket/small" in warnings[0].getMessage()
    folder.copy()
    assert storage.read("small/deep/a.txt") == b"one"
    generation = storage.objects["small/deep/a.txt"][1]
    folder.copy()  # nothing has changed
    assert storage.objects["small/deep/a.txt"][1] == generation
    (folder.local / "deep" / "a.txt").write_text("three")
  assert storage.names("small/") == ["small/deep/a.txt"]
  assert storage.read("small/deep/a.txt") == b"three"
  with RunFolder("gs://bucket/small", fetched=["deep/a.txt"]) as folder:
    assert (folder.local / "deep" / "a.txt").read_text() == "three"
  assert scratch() == []


def test_a_file_of_an_earlier_run_is_set_aside_here_and_there(storage):
  for name in ("metrics.jsonl", "report.html", "report.1.html"):
    storage.put(f"small/{name}", name.encode())
  with RunFolder("gs://bucket/small", fetched=["metrics.jsonl"]) as folder:
    assert folder.set_aside("metrics.jsonl") == "metrics.1.jsonl"
    assert folder.set_aside("report.html") == "report.2.html"
    assert folder.set_aside("other.txt") is None
    assert os.listdir(folder.local) == []
    (folder.local / "metrics.jsonl").write_text("new")
  found = {name: storage.read(name) for name in storage.names("small/")}
  assert found == {
    "small/metrics.jsonl": b"new",
    "small/metrics.1.jsonl": b"metrics.jsonl",
    "small/report.1.html": b"report.1.html",
    "small/report.2.html": b"report.html",
  }


def test_who_no_longer_holds_the_run_copies_nothing(storage):
  with RunFolder("gs://bucket/small", may_copy=lambda: False) as folder:
    (folder.local / "metrics.jsonl").write_text("stale")
  assert storage.names("small/") == []


@pytest.mark.parametrize("must_arrive", [True, False])
def test_what_did_not_arrive_at_the_end_is_kept_and_said_where(
  storage, must_arrive, caplog
):
  with storage.refusing("small/"), contextlib.ExitStack() as stack:
    if must_arrive:
      stack.enter_context(pytest.raises(OSError, match=r"all is in .*metro_jax-"))
    with RunFolder("gs://bucket/small", must_arrive=must_arrive) as folder:
      (folder.local / "a.txt").write_text("one")
  assert (folder.local / "a.txt").read_text() == "one"
  assert (f"all is in {folder.local}" in caplog.text) == (not must_arrive)
  shutil.rmtree(folder.local)


def test_a_local_folder_is_used_itself(tmp_path):
  with RunFolder(tmp_path / "run", fetched=["a.txt"]) as folder:
    folder.copy()
    assert folder.local == folder.address == tmp_path / "run"
    assert folder.told(folder.local / "a") == str(tmp_path / "run" / "a")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["s3://bucket/run", "gs://bucket", "gs:///run"])
def test_an_address_that_is_not_understood_is_refused(address):
  with pytest.raises(ValueError, match="expected a folder or gs://BUCKET/FOLDER"):
    bucket.expect_usable(address)


def test_without_the_extra_the_line_names_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(OSError, match=r"pip install 'metro_jax\[gcs\]'"):
    bucket.expect_usable(RUN)
  bucket.expect_usable("/a/local/folder")


def test_an_absent_bucket_and_missing_permissions_are_said(storage, monkeypatch):
  with pytest.raises(OSError, match="gs://other/run: cannot reach the bucket: 404"):
    bucket.expect_usable("gs://other/run")
  granted = ["storage.objects.get", "storage.objects.list"]
  monkeypatch.setattr(storage, "granted", granted)
  bucket.expect_usable(RUN, writes=False)
  wanted = "permission to storage.objects.create, storage.objects.delete"
  with pytest.raises(OSError, match=wanted):
    bucket.expect_usable(RUN)


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_like_one_local_one(
  served, tmp_path
):
  several = runpy.run_path(str(HERE.parent / "cluster" / "test_several_processes.py"))
  runner = several["Runner"](tmp_path)
  runner.run("alone", 1, 2)
  address = "gs://bucket/two"
  flags = [f"--workdir={address}"]
  begun = runner.start("two", 2, 1, flags, TMPDIR=str(tmp_path))
  while not any("/10/commit" in name for name in served.storage.names("two/")):
    assert all(process.poll() is None for process in begun), begun[0].communicate()
    time.sleep(0.02)
  begun[0].kill()
  printed = [process.communicate(timeout=120)[0] for process in begun]
  assert all(process.returncode != 0 for process in begun), printed
  assert "Going on from step" in runner.run("two", 2, 1, flags)
  (tmp_path / "two").mkdir()
  text = served.storage.read("two/metrics.jsonl")
  (tmp_path / "two" / "metrics.jsonl").write_bytes(text)
  np.testing.assert_allclose(runner.curve("two"), runner.curve("alone"), atol=1e-5)
  ours = checkpoint.restore_variables(f"{address}/checkpoints", "latest").tree
  theirs = runner.final("alone").tree
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), ours, theirs)
