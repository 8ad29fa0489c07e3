"""The dashboard: machines in a browser, as they are now."""
