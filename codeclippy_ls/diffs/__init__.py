"""Unified diffs: read as exact edits of a document, and written.

Most diffs of models are damaged: counts and line numbers are wrong, spaces are lost, the last hunk is cut. So a diff is
split into hunks (`hunks`), each hunk is located by its text (`matching`), and the result is a list of edits that do
exactly what the diff says (`edits`), or no edit and a reason. Never half a hunk, never a guess between equal places,
never another file. Pure and deterministic; knows no models and no LSP.
"""
