"""Networks of timm as pure functions; no torch."""
