"""The hypervisor of a blanket: Debian's libvirt and QEMU, spoken to through Debian's python3-libvirt."""
