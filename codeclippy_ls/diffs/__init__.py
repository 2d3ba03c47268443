"""Unified diffs: read into exact edits of a document, and written.

What a model writes is damaged more often than not: counts and line numbers are wrong, blanks are lost, the last hunk
is cut. So a diff is cut into hunks (`hunks`), each hunk is placed by its text (`places`), and the result is a list of
edits that do exactly what the diff says, or none at all and a reason. Never half a hunk, never a guess between
look-alikes, never another file. Pure and deterministic; knows no models and no LSP.
"""
