"""Models run in this process by Hugging Face transformers."""
