"""Q-learning for language models: the token backup on text, on any causal language model of transformers."""
