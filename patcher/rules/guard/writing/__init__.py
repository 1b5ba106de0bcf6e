"""The rewriter: guards what is not guarded. It shares no code with `proving`."""
