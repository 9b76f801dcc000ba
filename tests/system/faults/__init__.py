"""Faults on real VMs: one instance, two blankets, something breaks at a known moment, and what came of it."""
