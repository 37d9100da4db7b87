"""Studies that run while nobody looks."""
