"""The control plane's state: SQLite in one directory, or PostgreSQL by URL; the same tables in both."""
