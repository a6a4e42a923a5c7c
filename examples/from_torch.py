"""From PyTorch: a module of your own becomes a file that needs no PyTorch. Needs torch here, and nowhere else.

python examples/from_torch.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rnncore


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(1000, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(128, 12)

    def forward(self, ids):
        return self.tags(self.lstm(self.words(ids))[0]).softmax(-1)


torch.manual_seed(0)
tagger = Tagger().eval()
ids = torch.randint(0, 1000, (2, 9))
exported = rnncore.export.from_torch(tagger, ids)  # with a test pair: this input, and what PyTorch made of it

with tempfile.TemporaryDirectory() as directory:
    path = rnncore.save(Path(directory) / "tagger.safetensors", exported)
    model = rnncore.load(path, check=True)  # replays the test pair
    found = model(ids.numpy())
    expected = tagger(ids).detach().numpy()
    print(f"largest difference from PyTorch: {np.abs(found - expected).max():.1e}")
