"""The `microhypervisor` platform, and the words of its channel, of consents, and of what leaves by them."""
