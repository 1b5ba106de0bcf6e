"""What a merged file must pass. Shares no code with `merging`."""
