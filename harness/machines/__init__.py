"""Machines: the Machine protocol, emulated machines, templates and their clones."""
