//! Prometheus families and the log line of each request.
