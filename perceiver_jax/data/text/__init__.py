"""Text: sources, tokenizers, masking and GLUE."""
