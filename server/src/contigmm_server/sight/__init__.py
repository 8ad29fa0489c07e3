"""What can be seen of a running server: metrics, spans, logs, the dashboard."""
