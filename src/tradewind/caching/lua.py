"""What the shared cache has Redis do in one step: a value or a lease, and a lease extended or released by who holds it.

A lease is its holder's token and the priority that it asks with (smaller is more urgent); a more urgent asker takes it
over. What no asker can have set (another type, another text, no expiry, or one beyond `lease_ms`) holds nobody up: it is
taken over too. Not covered: somebody who can write to the store and sets leases that look right; each ends, or is set
anew, after `lease_ms`.
"""

FETCH = """
local token, lease_ms, priority, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local size = redis.pcall('STRLEN', KEYS[1])
local large = type(size) == 'number' and limit >= 0 and size > limit
if type(size) == 'number' and size <= limit then
  local value = redis.call('GET', KEYS[1])
  if value then
    local now = redis.call('TIME')
    return {value, redis.call('PTTL', KEYS[1]), now[1], now[2]}
  end
end
local held, left, holder, its = redis.pcall('GET', KEYS[2]), redis.call('PTTL', KEYS[2]), nil, nil
if type(held) == 'string' and left > 0 and left <= lease_ms then
  holder, its = string.match(held, '^(%S+) (-?%d+)$')
end
if holder and holder ~= token and tonumber(its) <= priority then return {false, 2, large and 1 or 0} end
local set = redis.pcall('SET', KEYS[2], token .. ' ' .. ARGV[3], 'PX', lease_ms)
return {false, set.ok and 1 or 3, large and 1 or 0}
"""
"""Of value, lease; token, lease_ms, priority, and the bytes that a value may have (-1: look at none).
-> the value, its milliseconds (-1: no end), seconds and microseconds since 1970 by Redis' clock; or nothing, with 1: the
lease is yours; 2: another's; 3: none can be had (the store is full); and whether a value was larger."""

_HELD = """
local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' or string.sub(held, 1, #ARGV[1] + 1) ~= ARGV[1] .. ' ' then return 0 end
"""
EXTEND = _HELD + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
RELEASE = _HELD + "return redis.call('DEL', KEYS[1])"
"""Of the lease; token (and lease_ms). Of another's, nothing."""
