"""Operations: what happens after a release is live. Monitoring first; alerts, canary, security, tuning have their place here."""
