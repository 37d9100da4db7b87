"""The command line: what is parsed, called and printed."""
