import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_thread():
    """One thread of torch, whatever tests before left."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """Tests that are marked cuda need a device; elsewhere they are skipped."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
