"""Blankets inside this one: their machines, as libvirt, the disk and the packet filter here have them."""
