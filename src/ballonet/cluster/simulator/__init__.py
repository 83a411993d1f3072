"""Simulates many hosts: the placement of :mod:`ballonet.cluster.placement` against simpler ones and an oracle."""
