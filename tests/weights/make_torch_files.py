"""How the files in made_by_torch/ were made, with PyTorch 2.14; run where it is.

They hold what a training checkpoint does: the tensors of `test_torch_files.EXPECTED`
as a wrapped module's state dict, beside an optimizer and settings.
"""

import argparse
import collections
import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent / "made_by_torch"


def checkpoint() -> dict:
  row = torch.arange(12, dtype=torch.float32)
  weight = torch.nn.Parameter(row.reshape(3, 4) / 8)
  adam = torch.optim.Adam([weight])
  weight.sum().backward()
  adam.step()
  tensors = collections.OrderedDict(
    {
      "module.transposed": row.reshape(3, 4).T,
      "module.every_other": row[1::2],
      "module.parameter": torch.nn.Parameter(row[:2] - 0.5),
      "module.half": torch.tensor([1.5, -2.0], dtype=torch.float16),
      "module.bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
      "module.double": torch.tensor([[0.1]], dtype=torch.float64),
      "module.count": torch.tensor(7),
      "module.empty": torch.zeros(0, 3),
    }
  )
  tensors._metadata = {"": {"version": 1}}
  return {
    "epoch": 3,
    "best": np.float64(51.5),
    "args": argparse.Namespace(lr=1e-4, device=torch.device("cpu")),
    "state_dict": tensors,
    "optimizer": adam.state_dict(),
  }


if __name__ == "__main__":
  FOLDER.mkdir(exist_ok=True)
  torch.save(checkpoint(), FOLDER / "zip.bin")
  legacy = FOLDER / "legacy.bin"
  torch.save(checkpoint(), legacy, _use_new_zipfile_serialization=False)
