"""Operations: what happens after a release is live. Monitoring; later alerts, canary, security, tuning."""
