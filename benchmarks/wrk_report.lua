-- Used by wrk.py. Arguments: a file with the request body, and the first number. Each request replaces "@@@@@@@@" in the
-- body by the next number. The result is printed as one line of JSON.
local head, tail, number

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local body = file:read("*a")
  file:close()
  local from, to = body:find("@@@@@@@@", 1, true)
  head, tail, number = body:sub(1, from - 1), body:sub(to + 1), tonumber(args[2])
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer sk-bench"
end

function request()
  number = number + 1
  return wrk.format(nil, nil, nil, head .. string.format("%08d", number % 100000000) .. tail)
end

function done(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, bad.connect + bad.read + bad.write + bad.status + bad.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
