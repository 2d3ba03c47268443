"""Code Clippy: a language server that completes, infills and edits with open code models, on this machine."""

__version__ = "0.1.0"
