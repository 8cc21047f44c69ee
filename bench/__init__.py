"""Benchmarks: ``python -m bench.decompose``, ``bench.matmul``, ``bench.compare`` and others, from the top folder."""
