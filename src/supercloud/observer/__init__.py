"""An independent witness of how many copies of an instance run at any moment.

It believes only QEMU: `inside` reads every QEMU's own events in one blanket and writes them, with that
blanket's monotonic time, to a virtio-serial port; `collect` reads the ports of all blankets on the
platform's machine and relates their clocks to its own; `timeline` counts. It knows no right, no epoch and
no table of the control plane.
"""
