"""Shared by all tests."""

from __future__ import annotations

import os

# No test may reach out; a hub name in a setting must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Toy models on a shared machine: a second OpenMP thread waits for the first and makes everything slower.
os.environ["OMP_NUM_THREADS"] = "1"
