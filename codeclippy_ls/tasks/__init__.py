"""Tasks for models: completion and edit, the lines that an edit is about, and metadata of a loaded model.

A task is plain data. It builds its prompt once it meets a model, and turns each candidate into the caller's terms, so
it can run on a thread, in another process, or on a service. Knows no threads, no LSP and no torch.
"""
