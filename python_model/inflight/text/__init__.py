"""Text on the user's side of the engine: tokenizers, incremental detokenizing, stop strings."""
