//! Large-model APIs over HTTP: connections, keys, time-outs, retries, breaker, dialect.
