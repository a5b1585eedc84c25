"""How many replicas a load needs: a simulation of the serving system."""
