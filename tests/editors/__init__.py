"""The three clients in the real editors; `make test-editors` installs the editors and runs these."""
