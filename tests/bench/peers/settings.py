"""What both sides of the training benchmark share."""

RATE = 1e-4
BETAS = (0.9, 0.999)
EPSILON = 1e-8
CLIP = 1.0
