"""Loads the harness's pytest plugin; pytest skips it where the entry point of that name already did."""

pytest_plugins = ["harness.pytest_plugin"]
