"""A page that runs the network in the browser, as a folder of files."""

import pathlib
import shutil

from metro_jax import files
from metro_jax.checkpoints import runs
from metro_jax.exporting import card
from metro_jax.exporting.card import Choice
from metro_jax.exporting.onnx import models
from metro_jax.exporting.web import serve

PAGE = pathlib.Path(__file__).parent / "page"
PAGE_FILES = ("index.html", "page.js", "network.js", "mesh.js")
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
MODEL = "model_fp16.onnx"
FILES = (*PAGE_FILES, *RUNTIME_FILES, MODEL, models.FACES, "serve.py", *card.FILES)
TOLERANCE = models.TOLERANCES["float16"]
PLACES = ("node_modules/onnxruntime-web/dist", "dist", ".")
OPENING = (
  "`python serve.py` shows the page at 127.0.0.1; pictures stay in the browser. "
  "onnxruntime-web, under its own licence (MIT), runs the network there."
)


def file_names(choice: Choice) -> list[str]:
  """What the folder will hold.

  Raises:
    ValueError: If there is no runtime to copy.
  """
  find_runtime(choice.runtime)
  return list(FILES)


def find_runtime(folder: str) -> pathlib.Path:
  """Finds the files of onnxruntime-web where npm puts them.

  Args:
    folder: Where `npm install onnxruntime-web` was run, or the package itself.

  Raises:
    ValueError: If they are not there.
  """
  for place in PLACES:
    found = files.expand_home(folder) / place
    if folder and all((found / name).is_file() for name in RUNTIME_FILES):
      return found
  raise ValueError(
    "--runtime: expected a folder in which `npm install onnxruntime-web` was run, "
    f"with {' and '.join(RUNTIME_FILES)}; got {folder or 'none'}"
  )


def write(run: runs.Run, folder: pathlib.Path, choice: Choice) -> float:
  """Writes the page, the model and the runtime, and reads the model back.

  Returns:
    The model's largest difference from the checkpoint, metres.

  Raises:
    ValueError: If there is no runtime, or the model differs by more than it may.
  """
  runtime = find_runtime(choice.runtime)
  gap = models.write_half(run, folder / MODEL, choice)
  models.write_faces(run, folder)
  for name in PAGE_FILES:
    shutil.copyfile(PAGE / name, folder / name)
  for name in RUNTIME_FILES:
    shutil.copyfile(runtime / name, folder / name)
  shutil.copyfile(serve.__file__, folder / "serve.py")
  more = models.facts(run, choice) | {"largest_differences_m": {MODEL: gap}}
  card.write(run, folder, choice, more, (OPENING, models.ANY_BATCH))
  return gap
