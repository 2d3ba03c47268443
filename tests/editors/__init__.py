"""Tests of the three clients in real editors; `make test-editors` installs the editors and runs them."""
