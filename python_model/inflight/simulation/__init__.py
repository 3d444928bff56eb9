"""Fleets of replicas in virtual time: the engine's scheduler and cache against a device's costs."""
