"""Launchers: where and how the runs of a config are started."""
