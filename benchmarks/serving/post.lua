-- wrk: posts the files that PICTURES lists as CONTENT_TYPE, one after the other, and prints one line of JSON.
local bodies = {}
local at = 0

function init()
  for path in io.lines(os.getenv("PICTURES")) do
    local file = assert(io.open(path, "rb"))
    bodies[#bodies + 1] = file:read("*a")
    file:close()
  end
end

function request()
  at = at % #bodies + 1
  return wrk.format("POST", nil, { ["content-type"] = os.getenv("CONTENT_TYPE") }, bodies[at])
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
