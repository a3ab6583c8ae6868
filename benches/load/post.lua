-- wrk: POSTs the file named after `--` as JSON; at the end prints one line of JSON with what it measured.
function init(args)
   local file = assert(io.open(args[1], "r"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   wrk.headers["content-type"] = "application/json"
   file:close()
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      '\n{"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.4f, "p99_ms": %.4f}\n',
      summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
