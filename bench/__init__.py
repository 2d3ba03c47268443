"""Measurements: each prints a table, the hardware's limit beside it, and one JSON object as its last line."""
