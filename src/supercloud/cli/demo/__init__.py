"""The demo: two domains, one cloud, live migrations under load, and what an independent observer saw."""
