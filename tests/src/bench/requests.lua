-- What wrk runs: sends the requests of a file, which end with a zero byte each, in their order and over and over.
--
--   wrk … --script=requests.lua URL -- FILE THREADS
--
-- Each thread has an interpreter of its own and takes every THREADS-th request. The summary is one JSON line.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  requests = {}
  for request in file:read("*a"):gmatch("%Z+") do
    table.insert(requests, request)
  end
  file:close()
  step = tonumber(args[2])
  taken = 0
end

function request()
  local index = (taken * step + number - 1) % #requests
  taken = taken + 1
  return requests[index + 1]
end

function done(summary, latency)
  local most = 0
  for _, thread in ipairs(threads) do
    most = math.max(most, thread:get("taken"))
  end
  local errors = summary.errors
  print(string.format(
    '\n{"taken": %d, "replies": %d, "refused": %d, "broken": %d, "late": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}',
    most * #threads, summary.requests, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
