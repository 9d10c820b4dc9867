"""How flows are offered and scheduled: their deployments, the process that serves them, the jobs API."""
