"""The synthetic dataset: repeatable, resumable, never half there, a split at a time."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from metro_jax import config as configs
from metro_jax import files
from metro_jax.body import humanoid
from metro_jax.data import datasets, schema
from metro_jax.data.builders import prepared, shards, synthetic_reader
from metro_jax.data.builders.synthetic import scene
from metro_jax.rendering import rasterizer

COUNTS = {"train": 6, "validation": 3, "test": 2}


def config_for(folder, workers=2, **changes):
  config = configs.get_config()
  config.data.data_dir = str(folder)
  config.data.synthetic.update(
    {"image_px": 48, "workers": workers, "share_2d_only": 0.5, **changes}
    | {f"{split}_examples": count for split, count in COUNTS.items()}
  )
  return config


def open_split(config, split):
  return datasets.open_split(config, f"synthetic/{split}")


def folder_of(config, split):
  name = synthetic_reader.open_reader(config, split).dataset()
  return prepared.folder_of(pathlib.Path(config.data.data_dir), name, split)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A dataset drawn by two processes."""
  config = config_for(tmp_path_factory.mktemp("data"))
  for split in COUNTS:
    open_split(config, split)
  return config


@pytest.fixture
def copied(built, tmp_path):
  """The same dataset, to be damaged."""
  shutil.copytree(built.data.data_dir, tmp_path / "data")
  return config_for(tmp_path / "data")


def rows(config, split):
  return list(open_split(config, split))


def assert_same(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_rows_are_what_the_scene_draws_and_survive_the_files(built):
  chosen = built.data.synthetic
  settings = scene.Settings(**{n: chosen[n] for n in scene.Settings._fields})
  stage = scene.make_stage(humanoid.load())
  for split, count in COUNTS.items():
    source = open_split(built, split)
    assert len(source) == count
    for row in range(count):
      drawn = scene.draw_example(stage, settings, split, row)
      stored = source[row]
      assert stored["key"] == f"{split}/{row}"
      assert isinstance(stored["image"], bytes)
      assert stored["image"][:3] == b"\xff\xd8\xff"
      for name in ("pose", "shape", "camera", "joints_2d_px", "joints_3d_m", "box_px"):
        # Threads may add numbers in another order than the drawing processes did.
        np.testing.assert_allclose(stored[name], drawn[name], atol=1e-4, err_msg=name)
      for name in ("has_joints_2d", "has_joints_3d", "has_mesh"):
        assert stored[name] == drawn[name]


def test_the_dataset_does_not_depend_on_the_number_of_workers(built, tmp_path):
  alone = config_for(tmp_path, workers=1)
  for split in COUNTS:
    assert_same(rows(built, split), rows(alone, split))


def test_no_body_is_in_two_splits_or_twice(built):
  shapes = [e["shape"] for s in COUNTS for e in rows(built, s) if e["has_mesh"]]
  assert len(np.unique(np.round(shapes, 4), axis=0)) == len(shapes)


def test_rows_outside_of_the_split_raise(built):
  source = open_split(built, "test")
  assert source[-1]["key"] == "test/1"
  with pytest.raises(IndexError, match="expected a row below 2, got 2"):
    source[2]


def test_an_unknown_split_is_named(built):
  with pytest.raises(ValueError, match=r"expected a split of .*, got 'val'"):
    open_split(built, "val")


def test_only_the_split_that_is_opened_is_drawn(tmp_path):
  config = config_for(tmp_path, workers=1)
  assert len(open_split(config, "test")) == COUNTS["test"]
  assert folder_of(config, "test").exists()
  assert not folder_of(config, "train").exists()


def name_of(config, split="train"):
  return synthetic_reader.open_reader(config, split).dataset()


def test_any_changed_setting_is_another_dataset(built, tmp_path):
  names = {name_of(built)}
  others = (
    *({"seed": 1}, {"occluder_probability": 0.9}, {"image_px": 52}),
    {"poses": "motions"},
  )
  for changes in others:
    names.add(name_of(config_for(tmp_path, **changes)))
  more = config_for(tmp_path)
  more.data.synthetic.train_examples = 7
  names.add(name_of(more))
  assert len(names) == len(others) + 2
  assert name_of(config_for(tmp_path, workers=7)) in names
  assert name_of(more, "test") == name_of(built, "test")


def test_changed_drawing_code_is_another_dataset(built, tmp_path, monkeypatch):
  before = name_of(built)
  changed = tmp_path / "rasterizer.py"
  source = pathlib.Path(rasterizer.__file__).read_bytes()
  changed.write_bytes(source)
  monkeypatch.setattr(rasterizer, "__file__", str(changed))
  assert name_of(built) == before
  changed.write_bytes(source.replace(b"0.5", b"0.6", 1))
  assert name_of(built) != before


def test_all_code_that_drawing_loads_counts_but_what_holds_examples_and_no_other():
  code = "import sys, metro_jax.data.builders.synthetic.scene; print(*sys.modules)"
  environment = os.environ | {"PYTHONPATH": files.import_path()}
  command = [sys.executable, "-c", code]
  loaded = subprocess.check_output(command, env=environment, text=True).split()
  loaded = {sys.modules[name] for name in loaded if name.startswith("metro_jax.")}
  code = {
    pathlib.Path(module.__file__)
    for module in loaded
    if not hasattr(module, "__path__")
  }
  counted = set(synthetic_reader.drawing_files())
  assert code - counted == {pathlib.Path(schema.__file__)}
  assert {path for path in counted if path.suffix == ".py"} <= code
  assert {path.name for path in counted} >= {"motions.npz", "scene.py", "stances.py"}


def test_an_interrupted_build_goes_on_with_the_shards_that_are_there(
  built, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(datasets, "_DRAWN_ROWS", 2)
  config = config_for(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(prepared, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      open_split(config, "train")
  partial = folder_of(config, "train").with_name("1.0.0.partial")
  finished, cut, missing = sorted(partial.glob("*-of-00003"))
  cut.write_bytes(cut.read_bytes()[:500])
  missing.unlink()
  before = finished.stat().st_mtime_ns
  capsys.readouterr()
  assert_same(rows(config, "train"), rows(built, "train"))
  assert "synthetic/train: read 4 of 6 rows" in capsys.readouterr().out
  assert (folder_of(config, "train") / finished.name).stat().st_mtime_ns == before
  assert not partial.exists()


def test_too_small_a_disk_is_found_before_anything_is_drawn(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
  monkeypatch.setattr(prepared.shutil, "disk_usage", lambda _: usage)
  monkeypatch.setattr(shards, "write_all", lambda *_: pytest.fail("drew something"))
  config = config_for(tmp_path)
  config.data.synthetic.train_examples = 60
  with pytest.raises(OSError, match=r"about 0.2 MB are needed, 0.0 MB are free"):
    open_split(config, "train")
  assert not folder_of(config, "train").exists()


def test_a_damaged_record_is_named_by_split_and_row(copied):
  (file,) = folder_of(copied, "validation").glob("*validation.array_record*")
  data = bytearray(file.read_bytes())
  place = data.find(open_split(copied, "validation")[1]["image"][-100:-40])
  assert place > 0
  data[place] ^= 255
  file.write_bytes(data)
  source = open_split(copied, "validation")
  assert source[0]["key"] == "validation/0"
  with pytest.raises(
    ValueError, match=r"synthetic/validation in .*, row 1: damaged rec"
  ):
    source[1]


@pytest.mark.parametrize("damage", ["cut", "missing", "description"])
def test_a_damaged_dataset_fails_when_it_is_opened(copied, damage):
  path = folder_of(copied, "test")
  (file,) = path.glob("*test.array_record*")
  if damage == "cut":
    file.write_bytes(file.read_bytes()[:1000])
  elif damage == "missing":
    file.unlink()
  else:
    (path / "dataset_info.json").write_text('{"name": ')
  with pytest.raises(
    ValueError, match=r"dataset synthetic/test in .*delete the folder"
  ) as error:
    open_split(copied, "test")
  assert "\n" not in str(error.value)


def test_a_second_build_waits_for_the_first_and_then_reads_it(tmp_path, capfd):
  config = config_for(tmp_path, workers=1)
  found = []

  def build():
    found.append(rows(config, "test"))

  threads = [threading.Thread(target=build) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert_same(*found)
  output = capfd.readouterr()
  assert output.out.count("synthetic/test: read 2 of 2 rows") == 1
  assert "Waiting for another process" in output.err


def test_rows_that_cannot_be_drawn_are_reported(tmp_path):
  config = config_for(tmp_path, image_px=0)  # a picture without pixels
  with pytest.raises(ValueError, match=r"of 2 rows are bad .*: synthetic/test row 0: "):
    open_split(config, "test")
  assert not folder_of(config, "test").exists()


def test_drawing_processes_do_not_import_the_main_program(tmp_path):
  """So a script without a main guard, or one that is slow to import, can build."""
  script = tmp_path / "script.py"
  script.write_text(f"""
from metro_jax import config as configs
from metro_jax.data import datasets
print("main runs")
config = configs.get_config()
config.data.data_dir = {str(tmp_path)!r}
config.data.synthetic.update(dict(
  image_px=32, workers=2, train_examples=2, validation_examples=1, test_examples=1))
print(len(datasets.open_split(config, "synthetic/train")), "rows")
""")
  path = str(pathlib.Path(configs.__file__).parents[1])
  done = subprocess.run(
    [sys.executable, script],
    env={"PYTHONPATH": path},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.count("main runs") == 1
  assert (
    "\n2 rows" in done.stdout and "Drawing 2 examples of synthetic/train" in done.stdout
  )
  assert "%" not in done.stderr  # no bar where nobody watches
