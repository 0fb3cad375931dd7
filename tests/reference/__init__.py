"""Slow versions of the package's operations: loops over pixels and boxes, written from the definitions."""
