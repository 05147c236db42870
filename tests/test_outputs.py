import json
import os
from types import SimpleNamespace

import pytest

from metro_jax import benchmark, dryrun, outputs
from metro_jax.outputs import Outputs


def write(folder, name, text, command="predict"):
  with Outputs(folder, command).adding() as made:
    (made / name).write_text(text)


def test_a_command_replaces_what_it_wrote_and_leaves_nothing_else_behind(tmp_path):
  folder = tmp_path / "new" / "out"
  write(folder, "a.obj", "first")
  write(folder, "a.obj", "second")
  assert (folder / "a.obj").read_text() == "second"
  assert {path.name for path in folder.iterdir()} == {"a.obj", outputs.LEDGER}
  assert Outputs(folder, "predict").wrote("a.obj")


@pytest.mark.parametrize("kind", ["own", "changed", "folder", "link", "command"])
def test_what_it_did_not_write_or_was_changed_stays(tmp_path, kind):
  path, elsewhere = tmp_path / "a.obj", tmp_path / "elsewhere"
  elsewhere.write_text("second")
  if kind in ("changed", "link", "folder"):
    write(tmp_path, "a.obj", "second")
    path.unlink()
  if kind == "folder":
    path.mkdir()
  elif kind == "link":
    path.symlink_to(elsewhere)
  elif kind == "command":
    write(tmp_path, "a.obj", "second", "export")
  else:
    path.write_text("the user's")
  kept = None if kind == "folder" else path.read_text()
  with pytest.raises(
    FileExistsError, match=r"a\.obj: expected no file, or one that pr"
  ):
    Outputs(tmp_path, "predict").expect_free(["b.obj", "a.obj"])
  with pytest.raises(FileExistsError):
    write(tmp_path, "a.obj", "third")
  assert kept is None or path.read_text() == kept
  assert elsewhere.read_text() == "second"
  assert not Outputs(tmp_path, "predict").wrote("a.obj")


def test_all_files_of_a_piece_of_work_come_or_none(tmp_path):
  (tmp_path / "b").write_text("the user's")
  with pytest.raises(FileExistsError), Outputs(tmp_path, "predict").adding() as made:
    for name in "abc":
      (made / name).write_text("new")
  with pytest.raises(RuntimeError), Outputs(tmp_path, "predict").adding() as made:
    (made / "a").write_text("half")
    raise RuntimeError
  assert [path.name for path in tmp_path.iterdir()] == ["b"]
  assert (tmp_path / "b").read_text() == "the user's"


@pytest.mark.parametrize("torn", ["", '\n{"command": "predict", "na', "\n[1]\n\xff"])
def test_a_kill_before_a_file_has_its_name_makes_it_no_stranger(
  tmp_path, monkeypatch, torn
):
  write(tmp_path, "a", "first")

  def killed(path, target):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(outputs.pathlib.Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
      write(tmp_path, "a", "second")
  with open(tmp_path / outputs.LEDGER, "a", encoding="latin-1") as file:
    file.write(torn)
  write(tmp_path, "a", "third")  # the place of "first"
  (tmp_path / "a").write_text("second")  # as if it had been moved before the kill
  write(tmp_path, "a", "fourth")
  assert (tmp_path / "a").read_text() == "fourth"


def test_an_empty_file_holds_nothing_to_lose(tmp_path):
  (tmp_path / "x.json").touch()
  outputs.expect_free(tmp_path / "x.json", "benchmark")
  with outputs.replacing(tmp_path / "x.json", "benchmark") as partial:
    partial.write_text("{}")
  assert (tmp_path / "x.json").read_text() == "{}"


def test_a_single_file_keeps_its_ending_while_it_is_written(tmp_path):
  path = tmp_path / "new" / "x.npz"
  for text in ("first", "second"):
    with outputs.replacing(path, "convert") as partial:
      assert partial.suffix == ".npz" and partial != path
      partial.write_text(text)
  assert path.read_text() == "second"
  (tmp_path / "own.npz").write_text("the user's")
  with pytest.raises(FileExistsError, match=r"own\.npz"):
    outputs.expect_free(tmp_path / "own.npz", "convert")


def test_a_ledger_that_is_a_link_leads_nowhere(tmp_path):
  (tmp_path / "private").write_text("the user's")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / outputs.LEDGER).symlink_to(tmp_path / "private")
  with pytest.raises(OSError, match=outputs.LEDGER):
    write(tmp_path / "out", "a", "new")
  assert (tmp_path / "private").read_text() == "the user's"


def test_what_arrives_elsewhere_is_compared_with_what_is_there(tmp_path):
  local, there = tmp_path / "local", tmp_path / "there"
  write(there, "a", "first")
  (there / "b").write_text("somebody's")
  local.mkdir()
  (local / outputs.LEDGER).write_bytes((there / outputs.LEDGER).read_bytes())
  folder = Outputs(local, "predict", there)
  folder.expect_free(["a", "c"])
  with pytest.raises(FileExistsError, match="there/b"):
    folder.expect_free(["a", "b", "c"])


def test_names_of_every_kind_are_noted(tmp_path):
  names = [os.fsdecode(b"caf\xe9.npz"), "two\nlines.npz", "e\u0301.npz", "n" * 251]
  for text in ("first", "second"):
    for name in names:
      write(tmp_path, name, text)
  lines = (tmp_path / outputs.LEDGER).read_text().splitlines()
  entries = [json.loads(line) for line in lines if line]
  assert [entry["name"] for entry in entries] == names * 2


@pytest.mark.parametrize("command", [benchmark, dryrun])
def test_a_json_file_that_is_somebody_elses_is_said_before_the_work(
  tmp_path, monkeypatch, command
):
  path = tmp_path / "measured.json"
  path.write_text("the user's")
  monkeypatch.setattr(command, "FLAGS", SimpleNamespace(json=str(path)))
  with pytest.raises(FileExistsError, match=r"measured\.json: expected no file"):
    command.main([])
  assert path.read_text() == "the user's"
