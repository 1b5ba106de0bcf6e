"""The verifier: finds reads that are not guarded. It shares no code with `writing`."""
