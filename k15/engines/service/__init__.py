"""Trainer and sampler as long-lived processes behind HTTP on the loopback interface."""
