"""The embedded model: its tokenizer, its examples, its training, its card."""
