"""From a checkpoint folder or hub name to a model that has been tried: files, configuration, tokenizer, weights."""
