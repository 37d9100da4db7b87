"""Prompt optimizers on the same tasks, model, rows and number of task calls. `run.py` is the door."""
