"""The rollout engine: vLLM in process."""
