"""What makes machines outlast the server: journal, snapshots, recovery."""
