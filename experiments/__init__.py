"""Entry points for training, evaluation and prediction."""
