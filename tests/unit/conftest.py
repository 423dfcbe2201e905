"""Property tests: seconds for an example, as a busy machine can pause one of 10 ms for longer than hypothesis's 200 ms."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("virnucpro", deadline=5000)
settings.load_profile("virnucpro")


@pytest.fixture
def one_thread():
    """Threads cost more than they save on vectors this short."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
