"""Conversion from and to the Perceivers of Hugging Face's transformers."""
