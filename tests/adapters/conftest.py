"""The models are compared as they run in use: without gradients (some kernels round differently with them)."""

import pytest
import torch


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield
