"""Where a fix goes, and what a file becomes. Shares no code with `proving`."""
