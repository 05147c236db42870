"""Builds assets/panoramas.npz, places that people are lit by and stand in.

  python -m metro_jax.asset_builds.build_panoramas --package=assets.tgz

The package is npm's @pmndrs/assets 1.7.0 (`npm pack @pmndrs/assets@1.7.0`), whose 18
panoramas under hdri/ are CC0-1.0. Needs the extra `build`. Each becomes a JPEG of 512 x
256 at one exposure, and nine coefficients a colour of the light that it sheds.
"""

import argparse
import base64
import pathlib
import re
import tarfile
import tempfile

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from metro_jax.data.builders.synthetic import panoramas

JPEG_QUALITY = 88
MIDDLE_GREY = 0.4  # what the median radiance becomes, before the shoulder
LARGEST = 65504.0  # of float16, in which some suns are infinite
BRIGHTEST = 40.0  # times the median: the sun's disc itself rings in nine coefficients


def read_panoramas(package: pathlib.Path) -> dict[str, Float[np.ndarray, "h w 3"]]:
  """Reads the package's radiance maps by name, RGB, linear."""
  found = {}
  with tarfile.open(package) as tar:
    for member in sorted(tar.getnames()):
      if match := re.fullmatch(r"package/hdri/(\w+)\.exr\.js", member):
        found[match[1]] = _read_exr(_read_member(tar, member))
  if not found:
    raise ValueError(f"{package}: expected package/hdri/*.exr.js, got none")
  return found


def _read_member(tar: tarfile.TarFile, name: str) -> str:
  file = tar.extractfile(name)
  if file is None:
    raise ValueError(f"{name}: expected a file")
  return file.read().decode()


def _read_exr(script: str) -> Float[np.ndarray, "h w 3"]:
  import OpenEXR  # of the extra `build`

  match = re.search(r"base64,([A-Za-z0-9+/=]+)", script)
  if match is None:
    raise ValueError("panorama: expected base64 in the script, found none")
  data = base64.b64decode(match[1])
  with tempfile.NamedTemporaryFile(suffix=".exr") as file:
    file.write(data)
    file.flush()
    with OpenEXR.File(file.name) as opened:
      pixels = opened.channels()["RGB"].pixels[..., :3].astype(np.float32)
  return np.nan_to_num(pixels, nan=LARGEST).clip(0, LARGEST)


def to_picture(radiance: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
  """Exposes for the median, rolls highlights off, and encodes for a screen."""
  exposed = radiance * (MIDDLE_GREY / np.median(radiance.mean(axis=-1)))
  shown = (exposed / (1 + 0.3 * exposed)).clip(0, 1) ** (1 / panoramas.GAMMA)
  return np.rint(shown * 255).astype(np.uint8)


def to_irradiance(radiance: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "9 3"]:
  """Projects radiance onto what `panoramas.irradiance` evaluates; its mean is 1.

  E(n) / pi = sum over l, m of A_l / pi L_lm Y_lm(n), A = pi, 2 pi / 3, pi / 4

  Source: Ramamoorthi and Hanrahan, "An efficient representation for irradiance
    environment maps", SIGGRAPH 2001.
  """
  height, width = radiance.shape[:2]
  clipped = radiance.clip(0, BRIGHTEST * np.median(radiance.mean(axis=-1)))
  directions = panoramas.directions(height, width)
  area = panoramas.solid_angles(height, width)
  basis = panoramas.harmonics(directions.reshape(-1, 3)) * area.reshape(-1, 1)
  light = basis.T @ clipped.reshape(-1, 3)
  light *= np.repeat([1, 2 / 3, 1 / 4], [1, 3, 5])[:, None]
  mean = light[0].mean() * panoramas.harmonics(np.zeros((1, 3)))[0, 0]
  return (light / mean).astype(np.float32)


def main() -> None:
  """Writes the asset."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--package", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path, default=panoramas.ASSET)
  options = parser.parse_args()
  arrays = {}
  for name, radiance in read_panoramas(options.package).items():
    flags = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    _, jpeg = cv2.imencode(".jpg", to_picture(radiance)[..., ::-1], flags)
    arrays[f"{name}.jpg"] = jpeg.ravel()
    arrays[f"{name}.irradiance"] = to_irradiance(radiance)
  np.savez(options.output, allow_pickle=False, **arrays)
  print(f"{len(arrays) // 2} panoramas, {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
  main()
