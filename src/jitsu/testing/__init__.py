"""The test kit: simulated network, peers and world."""
