"""Weights between hosts over Mooncake's TransferEngine."""
