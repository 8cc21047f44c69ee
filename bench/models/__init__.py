"""Whole models, compressed."""
