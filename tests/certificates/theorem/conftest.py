"""Networks of users may stretch arrays silently; here that is what is tested."""

import jax
import pytest

STRETCHING = {"test_grammar", "test_rounding", "test_rules"}


@pytest.fixture(autouse=True)
def silent_broadcasting(request):
    if request.module.__name__.rpartition(".")[2] not in STRETCHING:
        yield
        return
    with jax.numpy_rank_promotion("allow"):
        yield
