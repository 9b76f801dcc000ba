"""The control plane's program: the one place that knows all the parts."""
