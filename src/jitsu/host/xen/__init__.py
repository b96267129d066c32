"""Xen from dom0: its libraries, devices and interfaces."""
