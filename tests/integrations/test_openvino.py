"""integrations/openvino on the openvino that is installed."""

from __future__ import annotations

import pytest

pytest.importorskip("openvino", reason="pip install openvino")
pytest.importorskip("onnx", reason="pip install onnx")

from _engines import check, plugin


@pytest.mark.parametrize("cpus", [1, 2])
def test_openvino(cpus):
    check("check_openvino.py", cpus, BQQ_OPENVINO_LIBRARY=plugin("openvino") / "libbqq_openvino.so")
