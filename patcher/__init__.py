"""vllm-patcher: a source fix baked into a vLLM container image, proven."""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`: that of the installed distribution, which has it from the git tag.

    Read when it is asked for: `verify FILE` has no use for it, and importlib.metadata is slow.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata

    try:
        return metadata.version("vllm-patcher")
    except metadata.PackageNotFoundError:
        return "0+unknown"  # run from a checkout that was never installed
