"""The decoder, its weight table, containers (Hugging Face folder, GGUF) and its tokenizer."""
