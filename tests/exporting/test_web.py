"""The page runs the network in a browser, and nothing leaves it."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest

from tests.fixtures import drawn_runs

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

from metro_jax import export
from metro_jax.checkpoints import runs
from metro_jax.exporting.card import Choice
from metro_jax.exporting.web import folder as web
from metro_jax.inference import photographs, predictor
from metro_jax.rendering import overlay

PHOTOGRAPH = (
  pathlib.Path(__file__).parents[1] / "fixtures" / "photographs" / "pose2sim_040.jpg"
)
RUNTIME = os.environ.get("METRO_ONNXRUNTIME_WEB", "")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
  "--no-sandbox",
  "--enable-unsafe-swiftshader",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
)
SECONDS = 120_000  # milliseconds that the browser may take on a busy machine


def pretended_runtime(place: pathlib.Path) -> pathlib.Path:
  """A folder as npm leaves it, with files of no meaning."""
  dist = place / "node_modules" / "onnxruntime-web" / "dist"
  dist.mkdir(parents=True)
  for name in web.RUNTIME_FILES:
    (dist / name).write_text(name)
  return place


def test_the_folder_holds_all_that_its_page_asks_for(tmp_path):
  choice = Choice("web", runtime=str(pretended_runtime(tmp_path / "npm")))
  run = drawn_runs.draw_run(drawn_runs.tiny_config())
  assert export.export(run, tmp_path / "web", choice) < 1e-3  # metres: 1 mm
  made = {path.name for path in (tmp_path / "web").iterdir()} - {".metro_jax.jsonl"}
  assert made == set(export.file_names(choice))
  text = "".join((tmp_path / "web" / name).read_text() for name in web.PAGE_FILES)
  named = set(re.findall(r'"(?:\./)?([\w.-]+\.(?:m?js|json|npy|onnx))"', text))
  assert {"page.js", "mesh.js", "model.json", web.MODEL} <= named <= made
  assert not re.search(r"https?:|//\w+\.\w", text.replace("http-equiv", ""))
  assert "default-src 'self'" in (tmp_path / "web" / "index.html").read_text()


def test_a_folder_without_the_runtime_is_refused_before_anything_is_loaded(tmp_path):
  with pytest.raises(ValueError, match=r"--runtime: expected a folder in which `npm"):
    export.file_names(Choice("web", runtime=str(tmp_path)))
  with pytest.raises(ValueError, match="got none"):
    export.file_names(Choice("web"))


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
  """Where serve.py shows the embedded network's page."""
  if not RUNTIME:
    pytest.skip("METRO_ONNXRUNTIME_WEB names no folder with npm's onnxruntime-web")
  if not BROWSER or importlib.util.find_spec("playwright") is None:
    pytest.skip("needs playwright and Debian's chromium")
  choice = Choice("web", runtime=RUNTIME)
  export.export(runs.load("embedded"), tmp_path, choice)
  command = [sys.executable, str(tmp_path / "serve.py"), "0"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    assert server.stdout is not None
    yield server.stdout.readline().split()[0]
    server.terminate()


@pytest.mark.slow
def test_the_page_shows_a_photographs_mesh_and_asks_nobody_else(address):
  from playwright import sync_api

  assert urlparse(address).hostname == "127.0.0.1"
  asked: list[str] = []
  faults: list[str] = []
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
    page = browser.new_page(viewport={"width": 900, "height": 800})
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.extend(faults_in(message)))
    page.goto(address)
    wait_for(page, "ready")
    page.set_input_files("#file", PHOTOGRAPH)
    wait_for(page, "shown")
    joints_px = np.array(page.evaluate("seen.joints"))[:, :2]
    assert 0.02 < page.evaluate(COVERED) < 0.6
    straight = page.evaluate(PICTURE)
    box = page.locator("#mesh").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 320, box["y"] + 220, steps=3)
    page.mouse.up()
    assert page.evaluate(PICTURE) != straight
    page.locator("#mesh").dblclick()
    assert page.evaluate(PICTURE) == straight
    page.click("#camera")
    wait_for(page, "following")
    page.click("#camera")
    browser.close()
  assert not faults
  assert {urlparse(url).hostname for url in asked if not url.startswith("data:")} == {
    "127.0.0.1"
  }
  # Browsers decode and interpolate a little differently; a turn or a shift is tens.
  np.testing.assert_allclose(joints_px, predicted_joints_px(), atol=4)


# The share of the drawing that the mesh covers; the drawing itself.
COVERED = """() => {
  const gl = document.getElementById("mesh").getContext("webgl");
  const pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
  const size = [gl.drawingBufferWidth, gl.drawingBufferHeight];
  gl.readPixels(0, 0, ...size, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let covered = 0;
  for (let n = 3; n < pixels.length; n += 4) covered += pixels[n] > 0;
  return (4 * covered) / pixels.length;
}"""
PICTURE = 'document.getElementById("mesh").toDataURL()'


def faults_in(message: Any) -> list[str]:
  return [message.text] if message.type == "error" else []


def wait_for(page: Any, state: str) -> None:
  page.wait_for_selector(
    f"body[data-state={state}], body[data-state=failed]", timeout=SECONDS
  )
  assert page.get_attribute("body", "data-state") == state, page.inner_text("#status")


def predicted_joints_px() -> np.ndarray:
  """What `predict` says of the same photograph."""
  image = photographs.read(PHOTOGRAPH)
  (box,) = photographs.squares(*image.shape[:2], None, 1.2)
  body = predictor.make_predictor(runs.load("embedded"))(image, box)
  return overlay.to_pixels(body.joints_m, body.camera, box)
