"""Ollama's dialect: request (chat, generate), messages, options, answer, embeddings, models, errors."""
