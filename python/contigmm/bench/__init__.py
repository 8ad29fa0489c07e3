"""Speed, measured beside peers: the core, the library, the service."""
