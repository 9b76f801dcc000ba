"""The benches: each measures against a peer or a limit that it measures in the same run."""
