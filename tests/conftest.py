"""Every test starts from the same state: empty parameter store, fixed seeds, validation on, one thread."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def clean_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the state a test may rely on and check that it leaves none of Pyro's handlers behind."""
    if request.node.get_closest_marker("no_torch"):
        yield
        return
    import pyro
    import torch
    from pyro.poutine.runtime import _PYRO_STACK

    dtype = torch.get_default_dtype()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    with pyro.get_param_store().scope():
        yield
    torch.set_default_dtype(dtype)
    left = list(_PYRO_STACK)
    _PYRO_STACK.clear()
    assert not left, f"handlers left on Pyro's stack: {left}"
