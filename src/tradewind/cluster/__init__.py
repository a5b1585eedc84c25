"""Several engines behind one API: requests that outlive the replica that runs them, routing, deployment on Ray Serve."""
