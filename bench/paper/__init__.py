"""The published experiments on matrices, reproduced: ``python -m bench.paper all --out DIR``."""

import sys
from pathlib import Path

_BENCH = str(Path(__file__).resolve().parents[1])
if _BENCH not in sys.path:  # the modules beside this folder are imported by their bare names
    sys.path.insert(0, _BENCH)
