"""One cloud that belongs to its user, spread over clouds that belong to others."""

__version__ = "0.1.0"
