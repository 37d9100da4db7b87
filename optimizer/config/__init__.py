"""The configuration file: what may be set, how it is read, and what is wrong with it."""
