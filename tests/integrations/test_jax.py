"""integrations/jax on the jax and jaxlib that are installed."""

from __future__ import annotations

import pytest

pytest.importorskip("jax", reason="pip install jax")

from _engines import check, plugin


@pytest.mark.parametrize("cpus", [1, 2])
def test_jax(cpus):
    check("check_jax.py", cpus, BQQ_JAX_LIBRARY=plugin("jax") / "libbqq_jax.so")
