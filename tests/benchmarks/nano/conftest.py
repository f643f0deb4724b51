"""clara-nano's tests train small models, on one thread for reproducible results."""

import pytest

pytest.importorskip("accelerate", reason="training needs the extra [train]")

import torch

torch.set_num_threads(1)
