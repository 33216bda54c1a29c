-- What wrk does for a turn: each of its threads asks one of TARGETS, in turn, and what came
-- of it all is one line of JSON.
local targets, threads = {}, 0

for target in string.gmatch(os.getenv("TARGETS"), "%S+") do
	table.insert(targets, target)
end

function setup(thread)
	thread.addr = wrk.lookup(targets[threads % #targets + 1], "80")[1]
	threads = threads + 1
end

function done(summary, latency, requests)
	local e = summary.errors
	io.write(string.format('{"microseconds":%d,"requests":%d,"bytes":%d,"cut":%d,"failed":%d,"p50":%d,"p99":%d}\n',
		summary.duration, summary.requests, summary.bytes, e.read, e.connect + e.write + e.status + e.timeout,
		latency:percentile(50), latency:percentile(99)))
end
