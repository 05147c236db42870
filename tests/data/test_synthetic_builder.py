"""Building the synthetic dataset: repeatable, resumable, and never half there."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from metro_jax import config as configs
from metro_jax import files
from metro_jax.body import humanoid
from metro_jax.data import schema
from metro_jax.data.builders.synthetic import builder, chunks, scene
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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A dataset drawn by two processes."""
  config = config_for(tmp_path_factory.mktemp("data"))
  builder.open_split(config, "train")
  return config


@pytest.fixture
def copied(built, tmp_path):
  """The same dataset, to be damaged."""
  shutil.copytree(built.data.data_dir, tmp_path / "data")
  return config_for(tmp_path / "data")


def rows(config, split):
  return list(builder.open_split(config, split))


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
    source = builder.open_split(built, split)
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
  source = builder.open_split(built, "test")
  assert source[-1]["key"] == "test/1"
  with pytest.raises(IndexError, match="expected a row below 2, got 2"):
    source[2]


def test_an_unknown_split_is_named(built):
  with pytest.raises(ValueError, match=r"expected a split of .*, got 'val'"):
    builder.open_split(built, "val")


def test_any_changed_setting_is_another_dataset(built, tmp_path):
  names = {builder.make_builder(built).builder_config.name}
  others = (
    *({"seed": 1}, {"occluder_probability": 0.9}, {"image_px": 52}),
    {"poses": "motions"},
  )
  for changes in others:
    config = config_for(tmp_path, **changes)
    names.add(builder.make_builder(config).builder_config.name)
  more = config_for(tmp_path)
  more.data.synthetic.train_examples = 7
  names.add(builder.make_builder(more).builder_config.name)
  assert len(names) == len(others) + 2
  workers = config_for(tmp_path, workers=7)
  assert builder.make_builder(workers).builder_config.name in names


def test_changed_drawing_code_is_another_dataset(built, tmp_path, monkeypatch):
  before = builder.make_builder(built).builder_config.name
  changed = tmp_path / "rasterizer.py"
  source = pathlib.Path(rasterizer.__file__).read_bytes()
  changed.write_bytes(source)
  monkeypatch.setattr(rasterizer, "__file__", str(changed))
  assert builder.make_builder(built).builder_config.name == before
  changed.write_bytes(source.replace(b"0.5", b"0.6", 1))
  assert builder.make_builder(built).builder_config.name != before


def test_all_code_that_drawing_loads_counts_but_what_holds_examples():
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
  counted = set(builder._drawing_files())
  assert code - counted == {pathlib.Path(schema.__file__)}
  assert {path.name for path in counted} >= {"motions.npz", "scene.py", "stances.py"}


def test_an_interrupted_build_goes_on_with_the_finished_chunks(built, tmp_path, capsys):
  config = config_for(tmp_path)
  folder = builder.make_builder(config).chunk_folder
  folder.mkdir(parents=True)
  # One chunk is finished, with a mark to know it by; one is cut off; one is missing.
  finished, cut, _ = chunks.plan(COUNTS)
  examples = rows(built, "train")
  for example in examples:
    example["camera"] = np.full(3, 123, np.float32)
  chunks.write_chunk(folder, finished, examples)
  (folder / cut.file_name).write_bytes((folder / finished.file_name).read_bytes()[:500])
  (folder / f".{cut.file_name}.77").write_bytes(b"half")
  incomplete = builder.make_builder(config).final_path.parent / "incomplete.X_1.0.0"
  incomplete.mkdir(parents=True)
  assert_same(rows(config, "train"), examples)
  assert "Drawing 5 of 11" in capsys.readouterr().out
  for split in ("validation", "test"):
    assert_same(rows(config, split), rows(built, split))
  assert not folder.exists() and not incomplete.exists()


def test_a_failed_build_leaves_no_dataset_and_no_half_written_chunk(
  tmp_path, monkeypatch
):
  config = config_for(tmp_path)

  def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(chunks.np, "savez", fail)
  made = builder.make_builder(config)
  made.chunk_folder.mkdir(parents=True)
  with pytest.raises(OSError, match="No space left"):
    chunks.write_chunk(
      made.chunk_folder, chunks.plan(COUNTS)[2], [{"image": b"", "key": ""}]
    )
  assert not list(made.chunk_folder.iterdir())
  monkeypatch.setattr(chunks, "render", fail)
  with pytest.raises(OSError) as caught:
    builder.open_split(config, "train")
  assert caught.value.errno == errno.ENOSPC
  assert f"MB are needed in {made.chunk_folder.parent}" in str(caught.value)
  assert not made.final_path.exists()


def test_too_small_a_disk_is_found_before_anything_is_drawn(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
  monkeypatch.setattr(builder.shutil, "disk_usage", lambda _: usage)
  monkeypatch.setattr(chunks, "render", lambda *_: pytest.fail("drew something"))
  with pytest.raises(
    OSError, match=r"about [0-9.]+ MB are needed in .*, 0.0 MB are free"
  ):
    builder.open_split(config_for(tmp_path), "train")


def test_a_damaged_record_is_named_by_split_and_row(copied):
  path = builder.make_builder(copied).final_path
  (file,) = path.glob("*validation.array_record*")
  data = bytearray(file.read_bytes())
  place = data.find(builder.open_split(copied, "validation")[1]["image"][-100:-40])
  assert place > 0
  data[place] ^= 255
  file.write_bytes(data)
  source = builder.open_split(copied, "validation")
  assert source[0]["key"] == "validation/0"
  with pytest.raises(ValueError, match="split validation, row 1: damaged record"):
    source[1]


@pytest.mark.parametrize("damage", ["cut", "missing", "description"])
def test_a_damaged_dataset_fails_when_it_is_opened(copied, damage):
  path = builder.make_builder(copied).final_path
  (file,) = path.glob("*test.array_record*")
  if damage == "cut":
    file.write_bytes(file.read_bytes()[:1000])
  elif damage == "missing":
    file.unlink()
  else:
    (path / "dataset_info.json").write_text('{"name": ')
  with pytest.raises(
    ValueError, match=r"synthetic data in .*delete the folder"
  ) as error:
    builder.open_split(copied, "test")
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
  assert output.out.count("Drawing 11 of 11") == 1
  assert "Waiting for another process" in output.err


def test_a_drawing_process_that_fails_is_reported(tmp_path):
  settings = scene.Settings(0, 0, 0.0, 0.0, 0.0)  # a picture without pixels
  with pytest.raises(RuntimeError, match=r"drawing Chunk.*failed: "):
    chunks.render(tmp_path, settings, chunks.plan({"test": 1}), 1, lambda _: None)
  assert not list(pathlib.Path(tmp_path).iterdir())


def test_drawing_processes_do_not_import_the_main_program(tmp_path):
  """So a script without a main guard, or one that is slow to import, can build."""
  script = tmp_path / "script.py"
  script.write_text(f"""
from metro_jax import config as configs
from metro_jax.data.builders.synthetic import builder
print("main runs")
config = configs.get_config()
config.data.data_dir = {str(tmp_path)!r}
config.data.synthetic.update(dict(
  image_px=32, workers=2, train_examples=2, validation_examples=1, test_examples=1))
print(len(builder.open_split(config, "train")), "rows")
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
  assert "2 rows" in done.stdout and "Drawing 4 of 4" in done.stdout
  assert "%" not in done.stderr  # no bar where nobody watches


def test_a_drawing_process_that_is_ended_lets_go_of_the_thread_that_waits(tmp_path):
  settings, said = scene.Settings(0, 512, 0.0, 0.0, 0.0), []
  worker = chunks._Worker(tmp_path, settings)

  def wait():
    try:
      worker.draw(chunks.Chunk("train", 0, 100_000))
    except RuntimeError as error:
      said.append(str(error))

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  time.sleep(0.5)
  worker.stop()
  thread.join(20)
  worker.close()
  assert said and "a drawing process ended with code" in said[0]
