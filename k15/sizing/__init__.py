"""What a training run needs of each GPU, and how long a step takes, from formulas alone: no torch here."""
