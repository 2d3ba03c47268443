"""The language server: LSP messages in, values from ``assist`` out. The only room that knows pygls and lsprotocol."""
