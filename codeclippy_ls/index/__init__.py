"""An index of a folder's source files: what they define, what they import, which words stand near each other.

Built by a process of its own, read by anyone. Knows files and the syntax room; no LSP, no models, no prompts.
"""
