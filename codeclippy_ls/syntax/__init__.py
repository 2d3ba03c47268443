"""What the code around a cursor is, asked of tree-sitter: comments, strings, open brackets, scopes, syntax errors.

The only room that knows programming languages. Knows text: no models, no LSP, no threads.
"""
