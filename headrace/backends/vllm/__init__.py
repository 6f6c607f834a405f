"""vLLM and SGLang: servers of open models that speak OpenAI's dialect with members of their own."""

from headrace.backends.vllm.backend import SGLangBackend, VLLMBackend

__all__ = ["SGLangBackend", "VLLMBackend"]
