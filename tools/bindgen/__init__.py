"""Reads WIT packages and writes the C that crosses the WebAssembly boundary."""
