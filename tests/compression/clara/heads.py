"""Writes abstention heads whose score does not depend on the state."""

from pathlib import Path

import numpy as np

from clara_proxy.compression.clara.abstention_head import AbstentionHead, HeadWeights, save_head


def write_constant_head(folder: Path, score: float, hidden_size: int = 32, depth: int = 1) -> Path:
    """Write a head with this score for every state and the threshold 0.5 beside a checkpoint; return its path."""
    zeros, ones = np.zeros(hidden_size, np.float32), np.ones(hidden_size, np.float32)
    bias = np.array([np.log(score / (1 - score))], np.float32)
    weights = HeadWeights(zeros, ones, np.zeros((1, hidden_size), np.float32), zeros[:1], zeros[:1], bias)
    return save_head(AbstentionHead(depth, 0.5, weights), folder, {})
