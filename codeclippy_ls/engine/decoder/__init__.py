"""The native decoder: a causal transformer over weights by name, in several number formats. Knows no files."""
