"""Who may come in, and for how much: TLS, tokens, tenants, quotas, the audit log."""
