"""How the shipped model was made: corpus, edits, tokenizer, samples, training, export, evaluation. See README.md."""
