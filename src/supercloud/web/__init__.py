"""The web view: pages for people, over the same control plane that the API is a face of."""
