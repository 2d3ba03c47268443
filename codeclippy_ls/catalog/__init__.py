"""Models that other programs put on this machine: their files' headers, and where they lie. Reads, never writes."""
