"""The owner's key store: its own process, and the one place where the cloud's authority and keys are."""
