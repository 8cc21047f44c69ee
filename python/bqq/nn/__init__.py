"""Layers of torch whose weights are compressed matrices, and whole models made of them: the extra ``nn``.

>>> import bqq.nn
>>> report = bqq.nn.compress(model, bits=2.0, calibration=batches)
>>> bqq.nn.save(model, "folder")
>>> bqq.nn.load(fresh_model, "folder")
"""

from bqq.nn import _hub
from bqq.nn._compress import compress
from bqq.nn._files import load, save
from bqq.nn._modules import Conv1D, Conv2d, Embedding, Linear
from bqq.nn._report import LayerReport, Report

__all__ = ["Conv1D", "Conv2d", "Embedding", "LayerReport", "Linear", "Report", "compress", "load", "save"]

_hub.register()
