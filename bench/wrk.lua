-- Publishes each line of a file once: wrk -t1 -s bench/wrk.lua URL -- FILE LINES
-- When the last line is answered it writes "answered": time to interrupt wrk, which would wait for its own time to
-- pass. Its last line of output is what was answered, as JSON.

local ffi = require("ffi")
ffi.cdef([[
  typedef struct { long seconds; long nanoseconds; } bench_time;
  int clock_gettime(int clock, bench_time *now);
]])
local MONOTONIC = 1
local threads = {}

local function now_s()
  local now = ffi.new("bench_time")
  ffi.C.clock_gettime(MONOTONIC, now)
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  file = assert(io.open(args[1], "rb"))
  lines = tonumber(args[2])
  claimed, ok, refused, first_refusal, verified, strays, began_s, took_s = 0, 0, 0, "", false, 0, nil, 0
  head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
end

-- Asked before each request. A connection that finds no line left sleeps, so that nothing is sent that is not counted.
function delay()
  if claimed < lines then
    claimed = claimed + 1
    return 0
  end
  return 3600000
end

-- wrk calls this once before it starts, to see what it gives, and does not send that. It calls it without asking for a
-- delay on a connection that broke: then there may be no line left, and the counts no longer hold.
function request()
  local body = verified and file:read("*l")
  if not body then
    strays = strays + (verified and 1 or 0)
    verified = true
    return wrk.format("GET", "/livez")
  end
  began_s = began_s or now_s()
  return head .. #body .. "\r\n\r\n" .. body
end

function response(status, headers, body)
  if status == 200 then
    ok = ok + 1
  else
    refused = refused + 1
    if refused == 1 then
      first_refusal = status .. " " .. body:sub(1, 300)
    end
  end
  if ok + refused == lines then
    took_s = now_s() - began_s
    io.write("answered\n")
    io.flush()
    wrk.thread:stop()
  end
end

function done(summary, latency, requests)
  local thread, errors = threads[1], summary.errors
  local line = '\n{"ok":%d,"refused":%d,"lost":%d,"strays":%d,"took_s":%.6f,'
    .. '"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d}\n'
  io.write(line:format(thread:get("ok"), thread:get("refused"), errors.connect + errors.read + errors.write
    + errors.timeout, thread:get("strays"), thread:get("took_s"), latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max))
  if thread:get("refused") > 0 then
    io.stderr:write("first refusal: " .. thread:get("first_refusal") .. "\n")
  end
end
