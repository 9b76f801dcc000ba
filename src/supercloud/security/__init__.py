"""The loop: detect, decide, react, verify. One engine, ignorant of where it runs."""
