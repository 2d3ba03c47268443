"""Loading: from a checkpoint's name to a model that has run its first tokens. `loader.load` is the way through."""
