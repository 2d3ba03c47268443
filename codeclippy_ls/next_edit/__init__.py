"""Next edits without a model: what the user's last edits say about other places of the file.

Knows texts, trees and edits; no LSP and no model.
"""
