"""Same random numbers in every run, and the free body from the user's cache."""

import pytest
import torch

from hpse_dist.body.model import Body, load_body


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def free_body() -> Body:
    return load_body("free")
