"""Blankets as QEMU processes on this machine. `driver.QemuPlatform` is the platform driver."""
