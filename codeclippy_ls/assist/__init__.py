"""Completion and edits, joined from triggers, tasks, the engine and postprocessing.

Takes frozen documents and answers with frozen values in offsets; stale or worthless results are dropped here. Knows
no LSP types, no torch and no transport.
"""
