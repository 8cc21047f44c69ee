"""The published experiments on matrices, reproduced: ``python -m bench.paper all --out DIR``."""
