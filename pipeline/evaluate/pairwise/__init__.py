"""Which of two answers is better, as a judge says: a model behind an OpenAI-compatible address, or the reward model.

In come prompts with two answers each, out come verdicts, one a pair. No torch, and nothing of how the answers were made.
"""
