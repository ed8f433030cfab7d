"""Shared by all tests: each registered method trained once per session in its tiny setting."""

from functools import cache

import pytest
import torch

torch.set_num_threads(1)


@cache
def tiny(key):
    """Return the method, its bench and what it prepared, in the setting for tests."""
    from eelit.methods import registry
    from eelit.methods.method import Bench

    method = registry.get(key)
    method = method.replace(method.tiny)
    bench = Bench(executed=48)
    return method, bench, method.prepare(bench)


@pytest.fixture(scope="session")
def prepared():
    """Return ``tiny``: key → (method, bench, prepared)."""
    return tiny
