"""Simulation studies and power: populations, what is asked of each replicate, and runs that survive."""
