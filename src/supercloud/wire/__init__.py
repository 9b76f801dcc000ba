"""Requests and answers over one connection, both ways, and the remote faces of the ports."""
