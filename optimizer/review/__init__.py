"""Where people take part in a study: prompts of their own, vetoes, finalists side by side."""
