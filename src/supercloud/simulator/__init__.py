"""The at-most-once simulation: the real protocol code under a seeded scheduler, with faults everywhere.

Real: model.right, keeper (rights and loop), agent (instances, migration, overlay, volumes, journal), wire,
sagas, store, services, key store. Made up: time, the network, L0, QEMU, libvirt, disks, the kernel's filter.
Nothing in production knows this package.
"""
