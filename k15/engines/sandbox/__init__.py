"""Programs of models, run where they can touch nothing: an HTTP service over warm, isolated slots."""
