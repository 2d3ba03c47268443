"""Suggestions and edits: joins triggers, tasks, the engine and postprocessing.

Takes frozen documents and answers with frozen values in offsets. Drops stale and worthless results. Knows no LSP
types, no torch and no transport.
"""
