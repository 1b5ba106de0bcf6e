"""vllm-patcher: a source fix baked into a vLLM container image, proven."""

__version__ = "0.1.0"
