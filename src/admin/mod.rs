//! Health, status, metrics.
